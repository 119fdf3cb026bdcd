// Builds and runs the native selftest: node scripts/native-selftest.mjs [--sanitize] [--build]
// --sanitize: under AddressSanitizer and UBSan. --build: only builds and prints where it is.
// The last line of a run is `N passed, N failed`.
import { spawnSync } from 'node:child_process';
import { buildTarget, productOf } from './build-addon.mjs';

function main(flags) {
  const target = flags.includes('--sanitize') ? 'native_selftest_sanitized' : 'native_selftest';
  const code = buildTarget(target);
  if (code !== 0) return code;
  if (flags.includes('--build')) {
    console.log(productOf(target));
    return 0;
  }
  return spawnSync(productOf(target), [], { stdio: 'inherit' }).status ?? 1;
}

process.exit(main(process.argv.slice(2)));

// Builds and runs the native selftest: node scripts/native-selftest.mjs [--sanitize] [--build]
// --sanitize: under AddressSanitizer and UBSan. --build: only builds and prints where it is.
// The last line of a run is `N passed, N failed`.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { fingerprint, gyp, isBuilt, runLocked, setBuilt } from './build-addon.mjs';

const SELF = fileURLToPath(import.meta.url);
const flags = process.argv.slice(2);
const sanitize = flags.includes('--sanitize');
const target = sanitize ? 'native_selftest_sanitized' : 'native_selftest';
const product = `build/Release/${target}`;
const path = fileURLToPath(new URL(`../${product}`, import.meta.url));

function build() {
  const stamp = `${target}.stamp`;
  const mark = fingerprint(target);
  if (isBuilt(stamp, product, mark)) return 0;
  if (!flags.includes('--locked')) return runLocked([SELF, '--locked', '--build', ...flags]);
  try {
    gyp(target, ['-Dculvert_selftest=1']);
  } catch (error) {
    console.error(`${error.message}\nThe native selftest was not built.`);
    return 1;
  }
  setBuilt(stamp, mark);
  return 0;
}

function main() {
  const code = build();
  if (code !== 0 || flags.includes('--locked')) return code;
  if (flags.includes('--build')) {
    console.log(path);
    return 0;
  }
  return spawnSync(path, [], { stdio: 'inherit' }).status ?? 1;
}

process.exit(main());

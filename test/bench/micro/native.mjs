/**
 * The native micro-benchmark: compiles native_bench with the flags of the addon and reads its lines.
 * Compiled beside the addon's build folder, not in it, because node-gyp knows one folder only.
 * OpenSSL is the system's here; in the product it is the one inside node.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from '../product.mjs';

const FLAGS = ['-std=c++20', '-O3', '-fno-exceptions', '-fno-rtti', '-Wall', '-Wextra', '-Werror'];
/** Parts of native/ that are measured, with what they need. */
const SOURCES = [
  ...['aead_openssl.cc', 'aead_ipsecmb.cc', 'checksum.cc', 'splitter.cc', 'coalescer.cc'],
  ...['allowed_ips.cc', 'address.cc'],
];

/** @param {number} seconds For each figure. @returns {import('./rate.mjs').Rate[]} */
export function measureNative(seconds) {
  const folder = join(ROOT, 'bench-results/tools');
  mkdirSync(folder, { recursive: true });
  const program = join(folder, 'native_bench');
  const ipsecMb = existsSync('/usr/include/intel-ipsec-mb.h')
    ? { flags: ['-DCULVERT_IPSEC_MB=1'], libraries: ['-lIPSec_MB'] }
    : { flags: [], libraries: [] };
  execFileSync(
    'c++',
    [
      ...[...FLAGS, ...ipsecMb.flags, '-I', join(ROOT, 'native')],
      join(ROOT, 'test/bench/micro/native_bench.cc'),
      ...SOURCES.map((name) => join(ROOT, 'native', name)),
      ...['-lcrypto', ...ipsecMb.libraries, '-o', program],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  return execFileSync(program, [String(seconds)], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .map((line) => {
      const { name, microseconds, slowest } = JSON.parse(line);
      return { name, microseconds, slowest, perSecond: Math.round(1e6 / microseconds) };
    });
}

/**
 * What was measured on what: the machine and the versions of the programs.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { dirname, join } from 'node:path';

/** CPU flags that decide which code the AEAD libraries choose. */
const FLAGS = ['avx2', 'avx512f', 'avx512ifma', 'vaes', 'sha_ni'];

export function describeMachine() {
  const flags = /^flags\s*: (.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? '';
  const system = /^PRETTY_NAME="?(.*?)"?$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1];
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    cpuFlags: FLAGS.filter((flag) => flags.split(' ').includes(flag)),
    memoryMb: Math.round(totalmem() / 2 ** 20),
    kernel: release(),
    system: system ?? 'unknown',
    /** What else ran when the benchmark began: mean of the last minute. */
    loadBefore: Math.round((loadavg()[0] ?? 0) * 100) / 100,
  };
}

/**
 * @param {string} root The checkout.
 * @param {string | null} wireguardGo Path of the binary; null when it takes no part.
 */
export function describeVersions(root, wireguardGo) {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const commit = first(['git', '-C', root, 'rev-parse', '--short=12', 'HEAD'], /^\w+/);
  const dirty = first(['git', '-C', root, 'status', '--porcelain', '-uno'], /./) !== null;
  return {
    culvert: `${version} (${commit ?? 'unknown commit'}${dirty ? ', with changes' : ''})`,
    'wireguard-go': wireguardGo === null ? null : wireguardGoVersion(wireguardGo),
    openvpn: first(['openvpn', '--version'], /OpenVPN \S+/),
    iperf3: first(['iperf3', '--version'], /iperf \S+/),
    'libipsec-mb': first(['dpkg-query', '-s', 'libipsec-mb-dev'], /(?<=^Version: ).+/m),
    node: process.version,
    openssl: process.versions.openssl,
  };
}

/**
 * The version of the Debian package that a binary was unpacked from, else what the binary says of
 * itself (the Debian one names an older version than it is).
 * @param {string} binary
 */
function wireguardGoVersion(binary) {
  const folder = join(dirname(binary), '../..');
  const archive = readdirSync(folder).find((name) => /^wireguard-go_.*\.deb$/.test(name));
  return archive ? `Debian ${archive.split('_')[1]}` : first([binary, '--version'], /v\S+/);
}

/** The first match in what a program prints; null when it is missing. @param {string[]} argv @param {RegExp} pattern */
function first([file = '', ...argv], pattern) {
  const { stdout, stderr } = spawnSync(file, argv, { encoding: 'utf8', timeout: 10_000 });
  return pattern.exec(`${stdout ?? ''}${stderr ?? ''}`)?.[0] ?? null;
}

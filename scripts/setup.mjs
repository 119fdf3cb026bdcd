// Brings a clean clone to the point where everything runs: Debian packages, npm packages,
// better-sqlite3, the addon, dist/. Only does what is missing: node scripts/setup.mjs
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { inRoot, must, run, since } from './steps.mjs';

/** What building, the demo and the tests need. */
const PACKAGES = [
  'build-essential',
  'python3',
  'iproute2',
  'nftables',
  'iputils-ping',
  'iperf3',
  'ethtool',
  'tcpdump',
  'wireguard-tools',
  'wireguard-go',
  'openvpn',
  'libipsec-mb-dev',
  'libssl-dev',
  'procps',
  'systemd',
  'util-linux',
];
/** The one of the two that this node loads: server/store/database.ts. */
const SQLITE = Number(process.versions.napi) >= 10 ? 'better-sqlite3' : 'better-sqlite3-node20';

/** Does all steps; throws with what to do when one cannot be done. */
export async function setup() {
  const from = performance.now();
  await install();
  await compile();
  say(`ready after ${since(from)}`);
}

/** The packages, with `more` of Debian; throws as setup(). */
export async function install(more = []) {
  checkNode();
  await installDebianPackages([...PACKAGES, ...more]);
  await installNpmPackages();
  if (!existsSync('/dev/net/tun')) {
    say(
      'note: /dev/net/tun is missing; try `modprobe tun`, or --device /dev/net/tun in a container',
    );
  }
}

/** What is made from them and from this checkout; throws as setup(). */
export async function compile() {
  await buildSqlite();
  await step('build', () => must(process.execPath, [inRoot('scripts/build.mjs')]));
}

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 20)) {
    throw new Error(`Node ${process.versions.node} is too old; 20.20 or later is needed`);
  }
}

async function installDebianPackages(wanted) {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: the placeholders are dpkg-query's
  const format = '${Package} ${Status}\\n';
  const { code, output } = await run('dpkg-query', ['-W', '-f', format, ...wanted]);
  if (code === 127) {
    say(`this is not a Debian system; install these yourself: ${wanted.join(' ')}`);
    return;
  }
  const installed = new Set();
  for (const line of output.split('\n')) {
    const [name, ...status] = line.split(' ');
    if (status.join(' ') === 'install ok installed') installed.add(name);
  }
  const missing = wanted.filter((name) => !installed.has(name));
  if (missing.length === 0) return;
  if (process.getuid() !== 0) {
    say(`not root, so not installed: apt-get install ${missing.join(' ')}`);
    return;
  }
  const env = { DEBIAN_FRONTEND: 'noninteractive' };
  await step(`apt: ${missing.join(' ')}`, async () => {
    await must('apt-get', ['update', '-q'], { env });
    const install = ['install', '-q', '-y', '--no-install-recommends', ...missing];
    await must('apt-get', install, { env });
  });
}

async function installNpmPackages() {
  if (npmPackagesMatch()) return;
  await step('npm ci', () => must('npm', ['ci', '--ignore-scripts', '--no-fund', '--no-audit']));
}

/** True when node_modules holds what package-lock.json asks for (npm's own record says so). */
function npmPackagesMatch() {
  const record = inRoot('node_modules/.package-lock.json');
  if (!existsSync(record)) return false;
  const wanted = JSON.parse(readFileSync(inRoot('package-lock.json'), 'utf8')).packages;
  const present = JSON.parse(readFileSync(record, 'utf8')).packages;
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === '') continue;
    const there = present[path];
    if (!there && entry.optional) continue;
    if (!there || there.version !== entry.version || !existsSync(inRoot(path))) return false;
  }
  return Object.keys(present).every((path) => path in wanted);
}

/**
 * npm ci runs without scripts, so better-sqlite3 is compiled here where it does not come compiled:
 * its own install script would download a binary from elsewhere first.
 */
async function buildSqlite() {
  const probe = `new (require('${SQLITE}'))(':memory:').close()`;
  if ((await run(process.execPath, ['-e', probe])).code === 0) return;
  const gyp = [
    inRoot('node_modules/node-gyp/bin/node-gyp.js'),
    'rebuild',
    '--release',
    '--force_build=1',
    '--jobs=max',
  ];
  await step('better-sqlite3 (compiles SQLite, a minute or two)', () =>
    must(process.execPath, [...gyp, ...nodedir(), '-C', inRoot(join('node_modules', SQLITE))]),
  );
}

/** Headers of this very node when they are beside it; else node-gyp fetches them. */
function nodedir() {
  const prefix = dirname(dirname(process.execPath));
  return existsSync(join(prefix, 'include/node/node.h')) ? [`--nodedir=${prefix}`] : [];
}

async function step(name, action) {
  const from = performance.now();
  say(`${name} ...`);
  await action();
  say(`${name}: done in ${since(from)}`);
}

function say(text) {
  console.log(`set-up: ${text}`);
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    await setup();
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}

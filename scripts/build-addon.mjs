// Builds native/ into build/Release/ when a source, binding.gyp, this script or node has changed
// since the last time: node scripts/build-addon.mjs [TARGET]
//   TARGET: one of TARGETS below; the addon when none is named.
// Quiet when all is well; shows the whole log when not. Runs at `npm install`, so it needs no
// other file of scripts/.
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const SELF = fileURLToPath(import.meta.url);
const IPSEC_MB = '/usr/include/intel-ipsec-mb.h';

/** What can be built: its file in build/Release/ and gyp's -D arguments. */
const TARGETS = {
  culvert: { file: 'culvert.node', defines: [] },
  culvert_sanitized: { file: 'culvert_sanitized.node', defines: ['-Dculvert_sanitize=1'] },
  native_selftest: { file: 'native_selftest', defines: ['-Dculvert_selftest=1'] },
  native_selftest_sanitized: {
    file: 'native_selftest_sanitized',
    defines: ['-Dculvert_selftest=1'],
  },
};

/** Where the file of a target is once it is built. */
export function productOf(target) {
  return join(ROOT, 'build/Release', TARGETS[target].file);
}

/** What the result depends on, as one hash. */
function fingerprint(target) {
  const hash = createHash('sha256');
  const native = readdirSync(join(ROOT, 'native'));
  const sources = native.filter((name) => /\.(cc|h)$/.test(name)).sort();
  const files = [...sources.map((name) => join('native', name)), 'binding.gyp'];
  for (const file of files) {
    hash
      .update(`${file}\n`)
      .update(readFileSync(join(ROOT, file)))
      .update('\n');
  }
  hash.update(readFileSync(SELF));
  hash.update([process.version, process.arch, existsSync(IPSEC_MB), target].join('\n'));
  return hash.digest('hex');
}

/**
 * Runs `args` with node while no other build runs in this checkout (two would mix their files in
 * build/). Without flock the build goes on unguarded. Returns the exit code.
 */
function runLocked(args) {
  mkdirSync(join(ROOT, 'build'), { recursive: true });
  const lock = join(ROOT, 'build', 'lock');
  const options = { cwd: ROOT, stdio: 'inherit' };
  const locked = spawnSync('flock', [lock, process.execPath, ...args], options);
  if (locked.error?.code !== 'ENOENT') return locked.status ?? 1;
  return spawnSync(process.execPath, args, options).status ?? 1;
}

/**
 * Configures and builds one target; `defines` are gyp's -D arguments. Throws with the whole log
 * when it fails.
 */
function gyp(target, defines) {
  const bin = join(
    dirname(createRequire(SELF).resolve('node-gyp/package.json')),
    'bin/node-gyp.js',
  );
  // The headers of this very node when they are beside it; else node-gyp fetches them.
  const prefix = dirname(dirname(process.execPath));
  const nodedir = existsSync(join(prefix, 'include/node/node.h')) ? [`--nodedir=${prefix}`] : [];
  const jobs = `--jobs=${availableParallelism()}`;
  const run = (args) => {
    const options = { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] };
    const done = spawnSync(process.execPath, [bin, ...args], options);
    if (done.status !== 0) throw new Error(`${done.stdout ?? ''}${done.stderr ?? ''}`);
  };
  run(['configure', '--release', ...nodedir, '--', ...defines]);
  run(['build', target, '--release', jobs]);
}

/**
 * Builds a target unless it is there as of these sources. Returns the exit code; the log of a
 * build that failed is printed. `locked`: this process holds the lock.
 */
export function buildTarget(target, locked = false) {
  const stamp = join(ROOT, 'build', `${target}.stamp`);
  const product = productOf(target);
  const mark = fingerprint(target);
  const built = existsSync(stamp) && existsSync(product) && readFileSync(stamp, 'utf8') === mark;
  if (built) return 0;
  if (!locked) return runLocked([SELF, target, '--locked']);
  try {
    gyp(target, TARGETS[target].defines);
    // The product loads or says why not, here rather than at the first start.
    const load = `require(${JSON.stringify(product)})`;
    if (target === 'culvert') execFileSync(process.execPath, ['-e', load]);
  } catch (error) {
    console.error(`${error.message}\nThe native target ${target} was not built.`);
    return 1;
  }
  writeFileSync(stamp, mark);
  return 0;
}

function main([target = 'culvert', flag]) {
  if (target in TARGETS) return buildTarget(target, flag === '--locked');
  console.error(`There is no target ${target}, only ${Object.keys(TARGETS).join(', ')}.`);
  return 2;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.exit(main(process.argv.slice(2)));
}

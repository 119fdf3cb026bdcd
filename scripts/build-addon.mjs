// Builds native/ into build/Release/culvert.node when a source, binding.gyp, this script or node
// has changed since the last time: node scripts/build-addon.mjs
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

/** What the result depends on, as one hash; `extra` names what else was asked for. */
export function fingerprint(extra) {
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
  hash.update([process.version, process.arch, existsSync(IPSEC_MB), extra].join('\n'));
  return hash.digest('hex');
}

/** True when the stamp file in build/ holds `mark` and the product is there. */
export function isBuilt(stamp, product, mark) {
  const file = join(ROOT, 'build', stamp);
  if (!existsSync(file) || !existsSync(join(ROOT, product))) return false;
  return readFileSync(file, 'utf8') === mark;
}

/** Writes the stamp file after a build. */
export function setBuilt(stamp, mark) {
  writeFileSync(join(ROOT, 'build', stamp), mark);
}

/**
 * Runs `args` with node while no other build runs in this checkout (two would mix their files in
 * build/). Without flock the build goes on unguarded. Returns the exit code.
 */
export function runLocked(args) {
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
export function gyp(target, defines) {
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

function main() {
  const stamp = 'addon.stamp';
  const product = 'build/Release/culvert.node';
  const mark = fingerprint('addon');
  if (isBuilt(stamp, product, mark)) return 0;
  if (!process.argv.includes('--locked')) return runLocked([SELF, '--locked']);
  try {
    gyp('culvert', []);
    // Loads or says why not, here rather than at the first start.
    execFileSync(process.execPath, ['-e', `require(${JSON.stringify(join(ROOT, product))})`]);
  } catch (error) {
    console.error(`${error.message}\nThe native addon was not built.`);
    return 1;
  }
  setBuilt(stamp, mark);
  return 0;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) process.exit(main());

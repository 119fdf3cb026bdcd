// Namespace tests with the addon under AddressSanitizer and UBSan, as root:
// node scripts/test-sanitize.mjs [TEST...]
// Works in build/sanitized/, a copy of the sources with its own addon and dist/, so that the
// product is never run with a sanitized addon by mistake. node itself is not instrumented: the
// runtime libraries are preloaded. Every program of a test gets them too, and iproute2 has a
// finding of its own (strncpy onto itself), so only reports of node count. No leak check: node
// frees little when it exits.
import { execFileSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { inRoot, must, run } from './steps.mjs';

const FOLDER = inRoot('build/sanitized');
const REPORTS = join(FOLDER, 'reports');
const COPIED = [
  'client',
  'keys',
  'native',
  'scripts',
  'server',
  'shared',
  'test',
  'binding.gyp',
  'package.json',
  'tsconfig.json',
  'vitest.config.ts',
];
/** Tests through which every kind of packet passes, honest and hostile. */
const TESTS = [
  'test/contract/addon.test.ts',
  'test/netns/wire-data.test.ts',
  'test/netns/wire-handshake.test.ts',
  'test/netns/hostile.test.ts',
  'test/netns/client-to-client.test.ts',
  'test/netns/content.test.ts',
];
const SANITIZE = '-fsanitize=address,undefined';
const CXXFLAGS = [
  SANITIZE,
  '-fno-sanitize-recover=undefined',
  '-fno-omit-frame-pointer',
  '-g',
  '-O1',
  // With sanitizers GCC 12 warns of accesses that do not exist; the addon is built without these.
  '-Wno-array-bounds',
  '-Wno-stringop-overflow',
  '-Wno-stringop-overread',
];

async function copySources() {
  mkdirSync(FOLDER, { recursive: true });
  for (const name of COPIED) {
    rmSync(join(FOLDER, name), { recursive: true, force: true });
    cpSync(inRoot(name), join(FOLDER, name), { recursive: true });
  }
  if (!existsSync(join(FOLDER, 'node_modules'))) {
    symlinkSync(inRoot('node_modules'), join(FOLDER, 'node_modules'));
  }
  rmSync(join(FOLDER, 'dist'), { recursive: true, force: true });
  await must(process.execPath, [inRoot('node_modules/typescript/bin/tsc'), '-p', FOLDER]);
}

/** The copy's own build script builds the copy's addon. */
async function buildAddon() {
  const script = pathToFileURL(join(FOLDER, 'scripts/build-addon.mjs')).href;
  const { fingerprint, gyp, isBuilt, setBuilt } = await import(script);
  const mark = fingerprint(CXXFLAGS.join(' '));
  if (isBuilt('addon.stamp', 'build/Release/culvert.node', mark)) return;
  mkdirSync(join(FOLDER, 'build'), { recursive: true });
  process.env.CXXFLAGS = CXXFLAGS.join(' ');
  process.env.LDFLAGS = SANITIZE;
  gyp('culvert', []);
  setBuilt('addon.stamp', mark);
}

/** Path of a runtime library of the compiler that node-gyp uses. */
function library(name) {
  const compiler = process.env.CXX ?? 'g++';
  const path = execFileSync(compiler, [`-print-file-name=${name}`], { encoding: 'utf8' }).trim();
  if (!existsSync(path)) throw new Error(`${compiler} has no ${name}`);
  return path;
}

/** What the sanitizers found in node, one text for each process. */
function findings() {
  return readdirSync(REPORTS)
    .filter((name) => name.startsWith('report.node'))
    .map((name) => readFileSync(join(REPORTS, name), 'utf8'));
}

if (process.getuid() !== 0) {
  console.error('the namespace tests need root');
  process.exit(1);
}
await copySources();
await buildAddon();
rmSync(REPORTS, { recursive: true, force: true });
mkdirSync(REPORTS);
const log = `log_path=${join(REPORTS, 'report')}:log_exe_name=1`;
const tests = process.argv.length > 2 ? process.argv.slice(2) : TESTS;
const vitest = join(FOLDER, 'node_modules/vitest/vitest.mjs');
const args = [vitest, 'run', '--root', FOLDER, '--project', 'netns', ...tests];
const { code } = await run(process.execPath, args, {
  loud: true,
  env: {
    LD_PRELOAD: `${library('libasan.so')} ${library('libubsan.so')}`,
    ASAN_OPTIONS: `detect_leaks=0:halt_on_error=0:${log}`,
    UBSAN_OPTIONS: `print_stacktrace=1:${log}`,
  },
});
for (const text of findings()) console.error(text);
console.log(`${findings().length} findings of the sanitizers`);
process.exit(code === 0 && findings().length === 0 ? 0 : 1);

// The data plane under AddressSanitizer and UBSan while real packets cross it, as root:
// node scripts/sanitize.mjs [TEST ...]
// Builds the addon once more, sanitized, and runs the tests that carry the most through it in a
// copy of this checkout in build/sanitize/ that loads that addon. The sanitizer's library must come
// first in a process: the copy starts its programs with a node that sees to it, and for that
// process alone (the system's own programs have findings too). Fails when a test does, or when a
// process reported something; the reports are printed.
import {
  chmodSync,
  copyFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { buildTarget, productOf } from './build-addon.mjs';
import { inRoot, must, ROOT, run } from './steps.mjs';

const TARGET = 'culvert_sanitized';
const COPY = inRoot('build/sanitize');
const REPORTS = join(COPY, 'reports');
const NODE = join(COPY, 'node');
const TESTS = [
  'test/contract/addon.test.ts',
  'test/netns/wire-data.test.ts',
  'test/netns/wire-roaming.test.ts',
  'test/netns/wire-host.test.ts',
  'test/netns/client-to-client.test.ts',
];
/** V8 has its own handler for segmentation faults, and node leaks what it needs until its end. */
const OPTIONS = [
  'detect_leaks=0',
  'handle_segv=0',
  'allow_user_segv_handler=1',
  'abort_on_error=1',
  `log_path=${join(REPORTS, 'report')}`,
].join(':');

/** A checkout that differs in its addon only. */
function copyCheckout() {
  rmSync(COPY, { recursive: true, force: true });
  const skipped = ['.git', 'build', 'node_modules'];
  for (const name of readdirSync(ROOT)) {
    if (!skipped.includes(name)) cpSync(inRoot(name), join(COPY, name), { recursive: true });
  }
  symlinkSync(relative(COPY, inRoot('node_modules')), join(COPY, 'node_modules'));
  mkdirSync(join(COPY, 'build/Release'), { recursive: true });
  mkdirSync(REPORTS);
  copyFileSync(productOf(TARGET), join(COPY, 'build/Release/culvert.node'));
}

/** Makes the tests of the copy start our programs with `NODE`, which loads `library` first. */
function useNode(library) {
  const forget = 'data:text/javascript,delete%20process.env.LD_PRELOAD';
  const command = `LD_PRELOAD=${library} exec ${process.execPath} --import ${forget} "$@"`;
  writeFileSync(NODE, `#!/bin/sh\n${command}\n`);
  chmodSync(NODE, 0o755);
  for (const folder of ['test/netns', 'test/contract']) {
    for (const name of readdirSync(join(COPY, folder)).filter((file) => file.endsWith('.ts'))) {
      const file = join(COPY, folder, name);
      const text = readFileSync(file, 'utf8');
      writeFileSync(file, text.replaceAll('process.execPath', JSON.stringify(NODE)));
    }
  }
}

/** Path of a library of the compiler that built the addon. */
async function library(name) {
  const path = (await must('gcc', [`-print-file-name=${name}`])).trim();
  if (dirname(path) === '.') throw new Error(`${name} is missing: apt-get install build-essential`);
  return path;
}

async function main() {
  const code = buildTarget(TARGET);
  if (code !== 0) return code;
  await must(process.execPath, [inRoot('node_modules/typescript/bin/tsc'), '-p', '.']);
  copyCheckout();
  useNode(await library('libasan.so'));
  const wanted = process.argv.slice(2);
  const tests = wanted.length > 0 ? wanted : TESTS;
  const vitest = join(COPY, 'node_modules/vitest/vitest.mjs');
  const args = ['run', '--root', COPY, '--project', 'netns', ...tests];
  const done = await run(process.execPath, [vitest, ...args], {
    loud: true,
    env: {
      ASAN_OPTIONS: OPTIONS,
      UBSAN_OPTIONS: `print_stacktrace=1:log_path=${join(REPORTS, 'report')}`,
    },
  });
  const reports = readdirSync(REPORTS);
  for (const name of reports) console.error(readFileSync(join(REPORTS, name), 'utf8'));
  console.log(`${reports.length} reports of the sanitizers`);
  return done.code !== 0 || reports.length > 0 ? 1 : 0;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) process.exit(await main());

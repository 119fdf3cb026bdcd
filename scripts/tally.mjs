// Runs the parts of the test suite and adds up what passed and failed.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inRoot, run, since } from './steps.mjs';

/** @typedef {{passed: number, failed: number, output: string, failures?: string[]}} Result */
/** @typedef {{name: string, work: () => Promise<Result>}} Job */

/** Lines of a failure's message that are said again at the end. */
const MESSAGE_LINES = 4;

/** A tool that passes or fails as a whole. */
export function tool(name, file, args) {
  return {
    name,
    async work() {
      const { code, output } = await run(process.execPath, [file, ...args]);
      return { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, output };
    },
  };
}

/** One vitest project; a file that cannot be loaded counts as one failure. */
export function vitest(project) {
  return {
    name: `${project} tests`,
    async work() {
      const folder = mkdtempSync(join(tmpdir(), 'culvert-tally-'));
      const file = join(folder, 'report.json');
      const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${file}`];
      const args = [inRoot('node_modules/vitest/vitest.mjs'), 'run', '--project', project];
      const { code, output } = await run(process.execPath, [...args, ...reporters]);
      const counted = readReport(file);
      rmSync(folder, { recursive: true, force: true });
      const failed = Math.max(counted.failed, code === 0 ? 0 : 1);
      return { passed: counted.passed, failed, output, failures: counted.failures };
    },
  };
}

/** The native selftest; its last line is `N passed, N failed`. */
export function selftest(name, flags) {
  return {
    name,
    async work() {
      const script = inRoot('scripts/native-selftest.mjs');
      const { code, output } = await run(process.execPath, [script, ...flags]);
      const found = [...output.matchAll(/^(\d+) passed, (\d+) failed$/gm)].pop();
      const passed = Number(found?.[1] ?? 0);
      const failed = Math.max(Number(found?.[2] ?? 0), code === 0 && found ? 0 : 1);
      return { passed, failed, output };
    },
  };
}

/** Runs the jobs, `atOnce` at a time in their order; prints each when it ends. */
export async function runJobs(jobs, atOnce) {
  const tallies = [];
  const waiting = [...jobs];
  const worker = async () => {
    for (let job = waiting.shift(); job; job = waiting.shift()) {
      const from = performance.now();
      const { passed, failed, output, failures = [] } = await job.work();
      tallies.push({ passed, failed });
      if (failed > 0) console.log([output.trimEnd(), ...failures].join('\n'));
      const mark = failed > 0 ? 'FAILED' : 'ok';
      console.log(`${mark}: ${job.name}: ${passed} passed, ${failed} failed in ${since(from)}`);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return total(...tallies);
}

/** Several tallies as one. */
export function total(...tallies) {
  const sum = { passed: 0, failed: 0 };
  for (const { passed, failed } of tallies) {
    sum.passed += passed;
    sum.failed += failed;
  }
  return sum;
}

/** Prints the last line; returns the exit code. */
export function summary({ passed, failed }) {
  console.log(`${passed} passed, ${failed} failed`);
  return failed > 0 ? 1 : 0;
}

function readReport(file) {
  try {
    const report = JSON.parse(readFileSync(file, 'utf8'));
    const broken = report.testResults.filter(
      (result) => result.status === 'failed' && result.assertionResults.length === 0,
    );
    const failures = [
      ...broken.map(({ name, message }) => again(`${name} cannot be loaded`, message)),
      ...report.testResults.flatMap(({ name, assertionResults }) =>
        assertionResults
          .filter(({ status }) => status === 'failed')
          .map(({ fullName, failureMessages }) =>
            again(`${name}: ${fullName}`, failureMessages.join('\n')),
          ),
      ),
    ];
    const failed = report.numFailedTests + broken.length;
    return { passed: report.numPassedTests, failed, failures };
  } catch {
    return { passed: 0, failed: 1, failures: [] };
  }
}

/** A failure in short, as it is said again at the end. */
function again(what, message) {
  return [`FAILED: ${what}`, ...message.split('\n').slice(0, MESSAGE_LINES)].join('\n    ');
}

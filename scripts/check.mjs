// Everything that needs no root, in well under a minute: types, format, lint, unit tests,
// simulation, vectors, the contract on the simulated data plane, the native selftest.
// node scripts/check.mjs
import { availableParallelism } from 'node:os';
import { pathToFileURL } from 'node:url';
import { inRoot } from './steps.mjs';
import { runJobs, selftest, summary, tool, vitest } from './tally.mjs';

/** The jobs that need neither the addon nor SQLite. */
export function firstJobs() {
  return [
    selftest('native selftest', []),
    tool('types', inRoot('node_modules/typescript/bin/tsc'), ['--noEmit', '-p', '.']),
    tool('types of tests', inRoot('node_modules/typescript/bin/tsc'), ['--noEmit', '-p', 'test']),
    tool('format and lint', inRoot('node_modules/@biomejs/biome/bin/biome'), ['check']),
  ];
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const tally = await runJobs(
    [vitest('unit'), ...firstJobs()],
    Math.min(2, availableParallelism()),
  );
  process.exit(summary(tally));
}

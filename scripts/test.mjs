// Everything, from a clean clone, as root: set-up, check, the native selftest under
// AddressSanitizer and UBSan, a short run of all fuzz targets, namespace tests. Ends with
// `N passed, N failed`: node scripts/test.mjs
import { firstJobs } from './check.mjs';
import { fuzzJob, PACKAGES } from './fuzz.mjs';
import { compile, install } from './setup.mjs';
import { runJobs, selftest, summary, total, vitest } from './tally.mjs';

if (process.getuid() !== 0) {
  console.error('npm test needs root: it makes network namespaces. Without root: npm run check');
  process.exit(1);
}
const fail = (error) => {
  console.error(error.message);
  console.log('0 passed, 1 failed');
  process.exit(1);
};

await install(PACKAGES).catch(fail);
const sanitized = selftest('native selftest with sanitizers', ['--sanitize']);
// Compiling SQLite takes one core a minute or two: what needs none of it has the other one.
const [compiled, first] = await Promise.allSettled([
  compile(),
  runJobs([sanitized, ...firstJobs()], 1),
]);
for (const { status, reason } of [compiled, first]) if (status === 'rejected') fail(reason);
const second = await runJobs([vitest('unit'), fuzzJob()], 2);
// Alone: what these tests wait for comes later on a busy machine.
const third = await runJobs([vitest('netns')], 1);
process.exit(summary(total(first.value, second, third)));

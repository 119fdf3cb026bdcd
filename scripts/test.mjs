// Everything, from a clean clone, as root: set-up, check, the native selftest under
// AddressSanitizer and UBSan, a short run of all fuzz targets, namespace tests. Ends with
// `N passed, N failed`: node scripts/test.mjs
import { checkJobs } from './check.mjs';
import { fuzzJob, PACKAGES } from './fuzz.mjs';
import { setup } from './setup.mjs';
import { runJobs, selftest, summary, vitest } from './tally.mjs';

if (process.getuid() !== 0) {
  console.error('npm test needs root: it makes network namespaces. Without root: npm run check');
  process.exit(1);
}
try {
  await setup(PACKAGES);
} catch (error) {
  console.error(error.message);
  console.log('0 passed, 1 failed');
  process.exit(1);
}
const sanitized = selftest('native selftest with sanitizers', ['--sanitize']);
const check = await runJobs([...checkJobs(), sanitized, fuzzJob()], 2);
// Alone: what these tests wait for comes later on a busy machine.
const rest = await runJobs([vitest('netns')], 1);
process.exit(summary({ passed: check.passed + rest.passed, failed: check.failed + rest.failed }));

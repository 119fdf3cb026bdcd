// Everything, from a clean clone, as root: set-up, check, namespace tests, and the native selftest
// under AddressSanitizer and UBSan. Ends with `N passed, N failed`: node scripts/test.mjs
import { checkJobs } from './check.mjs';
import { setup } from './setup.mjs';
import { runJobs, selftest, summary, vitest } from './tally.mjs';

if (process.getuid() !== 0) {
  console.error('npm test needs root: it makes network namespaces. Without root: npm run check');
  process.exit(1);
}
try {
  await setup();
} catch (error) {
  console.error(error.message);
  console.log('0 passed, 1 failed');
  process.exit(1);
}
const check = await runJobs(checkJobs(), 2);
const rest = await runJobs(
  [selftest('native selftest with sanitizers', ['--sanitize']), vitest('netns')],
  1,
);
process.exit(summary({ passed: check.passed + rest.passed, failed: check.failed + rest.failed }));

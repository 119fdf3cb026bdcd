// Builds the addon and dist/: node scripts/build.mjs [--clean]
// --clean removes dist/ first, so that a package holds no file whose source is gone.
import { rmSync } from 'node:fs';
import { inRoot, must } from './steps.mjs';

if (process.argv.includes('--clean')) rmSync(inRoot('dist'), { recursive: true, force: true });
try {
  await must(process.execPath, [inRoot('scripts/build-addon.mjs')]);
  await must(process.execPath, [inRoot('node_modules/typescript/bin/tsc'), '-p', '.']);
} catch (error) {
  console.error(error.message);
  process.exit(1);
}

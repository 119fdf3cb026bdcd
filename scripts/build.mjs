// Builds the addon and dist/: node scripts/build.mjs [--clean]
// --clean makes dist/ anew, so that a package holds no file whose source is gone. It is built
// beside the old one and put in its place whole: programs that run from there go on.
import { existsSync, renameSync, rmSync } from 'node:fs';
import { inRoot, must } from './steps.mjs';

const dist = inRoot('dist');
const fresh = `${dist}-${process.pid}.new`;
const old = `${dist}-${process.pid}.old`;

try {
  await must(process.execPath, [inRoot('scripts/build-addon.mjs')]);
  const compile = [inRoot('node_modules/typescript/bin/tsc'), '-p', '.'];
  if (process.argv.includes('--clean')) {
    await must(process.execPath, [...compile, '--outDir', fresh]);
    if (existsSync(dist)) renameSync(dist, old);
    renameSync(fresh, dist);
  } else {
    await must(process.execPath, compile);
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  for (const folder of [fresh, old]) rmSync(folder, { recursive: true, force: true });
}

/**
 * The built product as the benchmarks load it: dist/ of this checkout.
 */
import { existsSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

export const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), '../..');

/**
 * Imports a module of dist/; the caller states its type.
 * @param {string} path Of the source without its ending, for instance `shared/bytes`.
 */
export async function load(path) {
  return import(pathToFileURL(builtFile(path)).href);
}

/** Throws when this checkout has not been built. */
export function requireBuilt() {
  builtFile('server/cli');
}

/** @param {string} path */
function builtFile(path) {
  const file = join(ROOT, 'dist', `${path}.js`);
  if (!existsSync(file)) throw new Error(`dist/${path}.js is missing; run npm run build`);
  return file;
}

/**
 * The documents name tests as proof: `FILE`: "TITLE", FILE below test/, and parts of the native
 * selftest. Each one named must exist, so that a renamed test does not leave an empty claim.
 */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const DOCUMENTS = ['ARCHITECTURE', 'PROTOCOL', 'SECURITY'];

function read(path: string): string | null {
  return existsSync(ROOT + path) ? readFileSync(ROOT + path, 'utf8') : null;
}

/** Text of a source file as it would be printed: quotes that its strings escape are plain. */
function sourceOf(file: string): string | null {
  const source = read(`test/${file}.test.ts`) ?? read(`test/${file}.ts`);
  return source?.replaceAll("\\'", "'") ?? null;
}

const selftest = read('native/selftest.cc')!;

test.each(DOCUMENTS)('every test that docs/%s.md names exists', (name) => {
  const text = read(`docs/${name}.md`)!;
  const cited = [...text.matchAll(/`([a-z]+\/[\w-]+)`: "([^"]+)"/g)];
  const parts = [...text.matchAll(/native selftest `([^`]+)`/g)];
  expect(cited.length + parts.length).toBeGreaterThan(5);
  const missing = cited
    .map(([, file, title]) => [file!, title!] as const)
    .filter(([file, title]) => sourceOf(file)?.includes(`'${title}'`) !== true)
    .filter(([file, title]) => sourceOf(file)?.includes(`"${title}"`) !== true);
  expect(missing).toEqual([]);
  const unknown = parts.map((match) => match[1]!).filter((part) => !selftest.includes(`"${part}"`));
  expect(unknown).toEqual([]);
});

/** The drop reasons of native/base.h are those of shared/dataplane.ts, in the same order. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { DROP_REASONS } from '../../shared/dataplane.ts';

test('C++ and TypeScript count the same drop reasons in the same columns', () => {
  const header = readFileSync(new URL('../../native/base.h', import.meta.url), 'utf8');
  const body = /enum class DropReason[^{]*\{([^}]*)\}/.exec(header)?.[1] ?? '';
  const names = [...body.matchAll(/\bk([A-Z]\w*)\s*,/g)].map((match) => match[1]!);
  expect(names.pop()).toBe('Count');
  expect(names.map((name) => name[0]!.toLowerCase() + name.slice(1))).toEqual([...DROP_REASONS]);
});

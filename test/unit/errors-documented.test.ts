/** docs/ERRORS.md and the catalogue in shared/errors.ts have the same codes and exit codes. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { REFUSAL_REASONS } from '../../shared/control/messages.ts';
import { ERRORS, ExitCode } from '../../shared/errors.ts';

const text = readFileSync(new URL('../../docs/ERRORS.md', import.meta.url), 'utf8');

/** Cells of the table rows whose first cell matches. */
function rows(first: RegExp): string[][] {
  return text
    .split('\n')
    .filter((line) => line.startsWith('| '))
    .map((line) => line.split('|').map((cell) => cell.trim()))
    .map((cells) => cells.slice(1, -1))
    .filter(([head]) => first.test(head ?? ''));
}

test('every code of the catalogue has one row with its exit code, and every row a code', () => {
  const documented = rows(/^[A-Z_]{3,}$/).map(([code, exit]) => `${code} ${exit}`);
  const catalogue = Object.entries(ERRORS).map(([code, { exit }]) => `${code} ${exit}`);
  expect(documented.toSorted()).toEqual(catalogue.toSorted());
});

test('every row says cause and fix', () => {
  for (const [code, , cause, fix] of rows(/^[A-Z_]{3,}$/)) {
    expect([code, (cause ?? '').length > 10, (fix ?? '').length > 5]).toEqual([code, true, true]);
  }
});

test('every exit code is explained', () => {
  const documented = rows(/^\d$/).map(([exit]) => Number(exit));
  expect(documented).toEqual(Object.values(ExitCode));
});

test('every reason of a refused request is named', () => {
  // A later version's reasons read as `unknown`: no server sends it.
  const sent = REFUSAL_REASONS.filter((reason) => reason !== 'unknown');
  const named = text.slice(text.indexOf('A refused *request*'));
  expect([...named.matchAll(/`(\w+)`/g)].map((match) => match[1])).toEqual(sent);
});

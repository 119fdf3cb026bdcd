/** Files that hold a secret: invites and profiles. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { readSecretText } from '../../client/secret-file.ts';
import { VpnError } from '../../shared/errors.ts';
import { codeOf } from './store-suite.ts';

const folder = mkdtempSync(join(tmpdir(), `culvert-secret-${process.pid}-`));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const path = join(folder, 'invite');
const read = (file = path) =>
  readSecretText(file, {
    ...{ what: 'an invite', limit: 10 },
    tooLarge: () => new VpnError('INVITE_NOT_RECOGNISED', 'too large'),
  });

it('is read when it is the owner’s alone and not too large', () => {
  writeFileSync(path, '0123456789', { mode: 0o600 });
  expect(read()).toBe('0123456789');
  writeFileSync(path, '01234567890');
  expect(codeOf(() => read())).toBe('INVITE_NOT_RECOGNISED');
  writeFileSync(path, 'x');
  chmodSync(path, 0o640);
  expect(codeOf(() => read())).toBe('KEY_FILE_READABLE_BY_OTHERS');
});

it('is refused when it is no file', () => {
  expect(codeOf(() => read('/dev/zero'))).toBe('KEY_FILE_UNUSABLE');
  expect(codeOf(() => read(folder))).toBe('KEY_FILE_UNUSABLE');
  expect(codeOf(() => read(join(folder, 'none')))).toBe('KEY_FILE_UNUSABLE');
});

/** The client in the background, when there is none. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runDaemon } from '../../client/daemon.ts';
import { collectOutput } from './collected-output.ts';

let folder: string;
const { execPath } = process;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-daemon-${process.pid}-`));
});
afterEach(() => {
  process.execPath = execPath;
  rmSync(folder, { recursive: true });
});

const begin = (program: string, logPath: string) => {
  process.execPath = program;
  return runDaemon({ argv: ['connect'], invite: undefined, logPath }, collectOutput().output);
};

test.each([
  ['does not start', 'no-such-program', /did not start: spawn .*no-such-program ENOENT/],
  ['ends without a word', '/bin/false', /ended without a word/],
])('a client that %s is an error that says so', async (_what, program, message) => {
  const logPath = join(folder, 'client.log');
  await expect(begin(resolve(folder, program), logPath)).rejects.toMatchObject({
    code: 'INTERNAL',
    message: expect.stringMatching(message),
    hint: expect.stringContaining(logPath),
  });
});

test('a client that was told to end before it was connected is none that failed', async () => {
  await expect(begin('/bin/true', join(folder, 'client.log'))).rejects.toMatchObject({
    code: 'NOT_RUNNING',
    message: expect.stringContaining('disconnected'),
  });
});

test('a log that cannot be written is named with the reason, and how to have it elsewhere', async () => {
  const logPath = join(folder, 'client.log');
  mkdirSync(logPath);
  await expect(begin('/bin/true', logPath)).rejects.toMatchObject({
    code: 'STATE_UNUSABLE',
    message: `cannot write the log ${logPath}: EISDIR`,
    hint: expect.stringContaining('--run'),
  });
});

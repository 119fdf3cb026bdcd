/** Programs of the host. */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { VpnError } from '../../shared/errors.ts';
import { commandFailure, run } from '../../shared/system/run.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-run-${process.pid}-`));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('a program of the host makes files for everybody, however private ours are', async () => {
  const mode = async (name: string, options?: Parameters<typeof run>[2]) => {
    await run('touch', [join(folder, name)], options);
    return statSync(join(folder, name)).mode & 0o777;
  };
  const before = process.umask(0o077);
  try {
    expect([await mode('a'), await mode('b', { umask: 0o077 })]).toEqual([0o644, 0o600]);
    expect(process.umask()).toBe(0o077);
  } finally {
    process.umask(before);
  }
});

test('run takes arguments as they are, gives input, and speaks English', async () => {
  const text = '$(id) "x" ; y';
  expect((await run('printf', ['%s', text])).stdout).toBe(text);
  expect((await run('cat', [], { input: 'hello' })).stdout).toBe('hello');
  expect((await run('sh', ['-c', 'echo $LC_ALL $HOME'])).stdout).toBe('C\n');
});

test('run tells a failure, a missing program and a time limit apart', async () => {
  const error = await run('sh', ['-c', 'echo why >&2; exit 3']).catch((e: unknown) => e);
  expect(commandFailure(error)).toMatchObject({ exitCode: 3, stderr: 'why\n' });
  expect((error as Error).message).toMatch(/why$/);
  const missing = await run('no-such-program-here', []).catch((e: unknown) => e);
  expect((missing as VpnError).code).toBe('COMMAND_MISSING');
  const late = await run('sleep', ['9'], { timeoutMs: 50 }).catch((e: unknown) => e);
  expect(commandFailure(late)?.exitCode).toBeNull();
  expect((late as Error).message).toMatch(/no end in time/);
});

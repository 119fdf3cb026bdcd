/** Key files: owner-only, atomic, sealed under a passphrase; and vpn-keygen beside wg. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createProgram } from '../../keys/commands.ts';
import { keyFileExists, readKeyFile, writeKeyFile } from '../../keys/key-file.ts';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import { VpnError } from '../../shared/errors.ts';

const key = generatePrivateKey();
let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-c1-${process.pid}-`));
  file = join(folder, 'own.key');
});
afterEach(() => rmSync(folder, { recursive: true }));

function codeOf(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    if (error instanceof VpnError) return error.code;
    throw error;
  }
  return 'none';
}

test('a key file is written with mode 0600 whatever the umask, and wg reads it', () => {
  const umask = process.umask(0);
  try {
    writeKeyFile(file, key);
  } finally {
    process.umask(umask);
  }
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(readKeyFile(file)).toEqual(key);
  expect(readdirSync(folder)).toEqual(['own.key']);
  const { stdout } = spawnSync('wg', ['pubkey'], { input: readFileSync(file), encoding: 'utf8' });
  expect(stdout.trim()).toBe(keyToBase64(publicKeyOf(key)));
});

test('an existing file is kept unless it is to be replaced', () => {
  writeKeyFile(file, key);
  expect(codeOf(() => writeKeyFile(file, generatePrivateKey()))).toBe('KEY_FILE_EXISTS');
  expect(readKeyFile(file)).toEqual(key);
  const next = generatePrivateKey();
  writeKeyFile(file, next, { replace: true });
  expect(readKeyFile(file)).toEqual(next);
  expect(readdirSync(folder)).toEqual(['own.key']);
});

test.each([0o640, 0o604, 0o610, 0o666])('mode %o is refused', (mode) => {
  writeKeyFile(file, key);
  chmodSync(file, mode);
  expect(codeOf(() => readKeyFile(file))).toBe('KEY_FILE_READABLE_BY_OTHERS');
});

test('what is not a key, not a file or not there has its own error', () => {
  writeFileSync(file, 'not a key\n', { mode: 0o600 });
  expect(codeOf(() => readKeyFile(file))).toBe('KEY_MALFORMED');
  expect(codeOf(() => readKeyFile(folder))).toBe('KEY_FILE_UNUSABLE');
  expect(codeOf(() => readKeyFile(join(folder, 'none')))).toBe('KEY_FILE_UNUSABLE');
  expect(codeOf(() => writeKeyFile(join(folder, 'none', 'x'), key))).toBe('KEY_FILE_UNUSABLE');
  expect([keyFileExists(file), keyFileExists(join(folder, 'none'))]).toEqual([true, false]);
});

test('a sealed file opens with its passphrase only and holds no key in clear', () => {
  const passphrase = new TextEncoder().encode('correct horse');
  writeKeyFile(file, key, { passphrase });
  expect(readFileSync(file, 'utf8')).not.toContain(keyToBase64(key));
  expect(readKeyFile(file, passphrase)).toEqual(key);
  expect(codeOf(() => readKeyFile(file))).toBe('PASSPHRASE_WRONG');
  expect(codeOf(() => readKeyFile(file, passphrase.slice(1)))).toBe('PASSPHRASE_WRONG');
});

test('a sealed file that was changed does not open, and cannot ask for all memory', () => {
  const passphrase = new TextEncoder().encode('x');
  writeKeyFile(file, key, { passphrase });
  const [header, body] = readFileSync(file, 'utf8').trim().split('\n') as [string, string];
  const bytes = Buffer.from(body, 'base64');
  const rewrite = (at: number, value: number) => {
    const changed = Buffer.from(bytes);
    changed[at] = value;
    writeFileSync(file, `${header}\n${changed.toString('base64')}\n`);
  };
  rewrite(bytes.length - 1, bytes.at(-1)! ^ 1);
  expect(codeOf(() => readKeyFile(file, passphrase))).toBe('PASSPHRASE_WRONG');
  rewrite(0, 40);
  expect(codeOf(() => readKeyFile(file, passphrase))).toBe('KEY_MALFORMED');
});

async function keygen(argv: string[], input = '', outputMode = 0o010_600) {
  const out = { stdout: '', stderr: '' };
  const stream = (name: keyof typeof out) => ({
    write: (text: string) => {
      out[name] += text;
    },
  });
  const code = await createProgram(
    { argv, env: {}, stdout: stream('stdout'), stderr: stream('stderr') },
    { readInput: () => new TextEncoder().encode(input), outputMode: () => outputMode },
  ).run();
  return { code, ...out };
}

const KEY = keyToBase64(key);
test.each([
  `${KEY}\n`,
  KEY,
  `${KEY} \t\r\n\n`,
  `${KEY}x\n`,
  `${KEY}\n${KEY}\n`,
  ` ${KEY}\n`,
  KEY.slice(0, 43),
  `${KEY.slice(0, 43)}A\n`,
  `${KEY.slice(0, 42)}==\n`,
  '',
  'hello\n',
])('pubkey does with %j what wg pubkey does', async (input) => {
  const wg = spawnSync('wg', ['pubkey'], { input, encoding: 'utf8' });
  const ours = await keygen(['pubkey'], input);
  expect([ours.code === 0, ours.stdout]).toEqual([wg.status === 0, wg.stdout]);
  expect(ours.code).toBe(wg.status === 0 ? 0 : 5);
  expect(ours.stderr).not.toContain(KEY.slice(0, 20));
});

test('keys of genkey are clamped and known to wg; genpsk gives 32 other bytes', async () => {
  const { stdout } = await keygen(['genkey']);
  const bytes = Buffer.from(stdout, 'base64');
  expect([bytes.length, bytes[0]! & 7, bytes[31]! & 192]).toEqual([32, 0, 64]);
  const wg = spawnSync('wg', ['pubkey'], { input: stdout, encoding: 'utf8' });
  expect((await keygen(['pubkey'], stdout)).stdout).toBe(wg.stdout);
  const [a, b] = [await keygen(['genpsk']), await keygen(['genpsk'])];
  expect(a.stdout).toMatch(/^[A-Za-z0-9+/]{43}=\n$/);
  expect(a.stdout).not.toBe(b.stdout);
});

test('a secret on its way to a world accessible file is warned about, elsewhere not', async () => {
  expect((await keygen(['genkey'], '', 0o100_644)).stderr).toMatch(/world accessible/);
  expect((await keygen(['genpsk'], '', 0o100_604)).stderr).toMatch(/world accessible/);
  expect((await keygen(['genkey'], '', 0o100_640)).stderr).toBe('');
  expect((await keygen(['genkey'], '', 0o010_666)).stderr).toBe('');
});

test('new writes the key and prints only its public half; unlock brings it back', async () => {
  const passphrase = join(folder, 'passphrase');
  writeFileSync(passphrase, 'one line\nsecond\n');
  const made = await keygen(['new', '--out', file, '--passphrase-file', passphrase]);
  expect(made.code).toBe(0);
  const unlocked = await keygen(['unlock', file, '--passphrase-file', '-'], 'one line\r\n');
  const open = (await keygen(['pubkey'], unlocked.stdout)).stdout;
  expect(made.stdout).toBe(open);
  expect((await keygen(['new', '--out', file])).code).toBe(5);
  expect((await keygen(['new'])).code).toBe(2);
  expect((await keygen(['unlock', file])).code).toBe(5);
});

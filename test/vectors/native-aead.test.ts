/**
 * The native cryptography against code of others: both transport AEAD back ends, the cookie cipher
 * and BLAKE2s. The native selftest is the other side: it reads a line for each case and answers
 * with one (native/selftest_aead.cc).
 *
 * Wycheproof reaches the transport AEAD only through a stand-in. The seam has no additional data
 * and nonces of four zero bytes and a counter, as every WireGuard message, and no Wycheproof case
 * has both. So noble is shown to pass Wycheproof, and the back ends are shown to equal noble on
 * Wycheproof's keys and messages with such nonces; the answers there are noble's.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { chacha20poly1305, xchacha20poly1305 } from '@noble/ciphers/chacha.js';
import { blake2s } from '@noble/hashes/blake2.js';
import { beforeAll, expect, test } from 'vitest';
import { concat, fromHex, toHex } from '../../shared/bytes.ts';

interface Case {
  tcId: number;
  key: string;
  iv: string;
  aad: string;
  msg: string;
  ct: string;
  tag: string;
  result: 'valid' | 'invalid';
}

/** A line to ask and the answers that are right for it. */
interface Question {
  readonly ask: string;
  readonly want: string;
}

const BACK_ENDS = ['openssl', 'ipsec-mb'] as const;
const BUILD = fileURLToPath(new URL('../../scripts/native-selftest.mjs', import.meta.url));
const WYCHEPROOF = new URL('./wycheproof-chacha20-poly1305.json', import.meta.url);

let program = '';

beforeAll(() => {
  const built = spawnSync(process.execPath, [BUILD, '--build'], { encoding: 'utf8' });
  expect(built.status, built.stderr).toBe(0);
  program = built.stdout.trim();
}, 600_000);

function check(questions: readonly Question[]): void {
  const input = `${questions.map((q) => q.ask).join('\n')}\n`;
  const run = spawnSync(program, ['--aead-vectors'], {
    input,
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  });
  expect(run.status, run.stderr).toBe(0);
  const answers = run.stdout.split('\n').slice(0, -1);
  expect(answers).toHaveLength(questions.length);
  for (const [i, { ask, want }] of questions.entries()) expect(answers[i], ask).toBe(want);
}

/** Back ends that work on this machine; OpenSSL always does. */
function available(): string[] {
  const zero = '00'.repeat(32);
  const input = BACK_ENDS.map((name) => `${name} seal ${zero} ${'00'.repeat(12)} -\n`).join('');
  const run = spawnSync(program, ['--aead-vectors'], { input, encoding: 'utf8' });
  const answers = run.stdout.split('\n');
  return BACK_ENDS.filter((_, i) => answers[i] !== 'unavailable');
}

const hex = (bytes: Uint8Array): string => (bytes.length === 0 ? '-' : toHex(bytes));

/** Bytes that look random and are the same in every run. */
function bytes(seed: string, n: number): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (let i = 0; i * 32 < n; i++) {
    blocks.push(createHash('sha256').update(`${seed} ${i}`).digest());
  }
  return concat(...blocks).subarray(0, n);
}

const wycheproof = (
  JSON.parse(readFileSync(WYCHEPROOF, 'utf8')) as {
    testGroups: { ivSize: number; tests: Case[] }[];
  }
).testGroups.flatMap((group) => group.tests.map((c) => ({ ...c, ivSize: group.ivSize })));

/** The plaintext, null when it is refused. */
function nobleOpen(c: Case): string | null {
  try {
    const cipher = chacha20poly1305(fromHex(c.key)!, fromHex(c.iv)!, fromHex(c.aad)!);
    return toHex(cipher.decrypt(concat(fromHex(c.ct)!, fromHex(c.tag)!)));
  } catch {
    return null;
  }
}

test('no case of Wycheproof has the form of a transport message, and the stand-in passes all', () => {
  // Should a newer file have some, they must be run through the back ends directly.
  const fit = wycheproof.filter((c) => c.aad === '' && /^0{8}[0-9a-f]{16}$/.test(c.iv));
  expect({ all: wycheproof.length, fit: fit.length }).toEqual({ all: 325, fit: 0 });
  const usable = wycheproof.filter((c) => c.ivSize === 96);
  expect(usable).toHaveLength(316);
  for (const c of usable) {
    expect(nobleOpen(c), `case ${c.tcId}`).toBe(c.result === 'valid' ? c.msg : null);
  }
});

test("Wycheproof's keys and messages as transport messages: both back ends equal the stand-in", () => {
  const names = available();
  expect(names).toContain('openssl');
  const questions: Question[] = [];
  for (const c of wycheproof.filter((c) => c.ivSize === 96)) {
    const key = fromHex(c.key)!;
    const nonce = concat(new Uint8Array(4), fromHex(c.iv)!.subarray(4));
    const plain = fromHex(c.msg)!;
    const sealed = chacha20poly1305(key, nonce).encrypt(plain);
    for (const name of names) {
      const head = `${c.key} ${toHex(nonce)}`;
      questions.push(
        { ask: `${name} seal ${head} ${hex(plain)}`, want: hex(sealed) },
        { ask: `${name} open ${head} ${hex(sealed)}`, want: hex(plain) },
      );
    }
  }
  expect(questions).toHaveLength(316 * 2 * names.length);
  check(questions);
});

test('any length and counter: both back ends equal an independent ChaCha20-Poly1305', () => {
  const questions: Question[] = [];
  const names = available();
  const lengths = [0, 1, 15, 16, 17, 31, 63, 64, 65, 127, 128, 129, 255, 256, 1408, 1420, 9000];
  for (const n of lengths) {
    const key = bytes(`key ${n}`, 32);
    const nonce = concat(new Uint8Array(4), bytes(`counter ${n}`, 8));
    const plain = bytes(`plain ${n}`, n);
    const sealed = chacha20poly1305(key, nonce).encrypt(plain);
    const altered = Uint8Array.from(sealed, (b, i) => (i === n >> 1 ? b ^ 1 : b));
    for (const name of names) {
      const head = `${toHex(key)} ${toHex(nonce)}`;
      questions.push(
        { ask: `${name} seal ${head} ${hex(plain)}`, want: hex(sealed) },
        { ask: `${name} open ${head} ${hex(sealed)}`, want: hex(plain) },
        { ask: `${name} open ${head} ${hex(altered)}`, want: 'refused' },
      );
    }
  }
  check(questions);
});

test('the cookie cipher equals an independent XChaCha20-Poly1305', () => {
  const questions: Question[] = [];
  for (let n = 0; n < 80; n++) {
    const key = bytes(`xkey ${n}`, 32);
    const nonce = bytes(`xnonce ${n}`, 24);
    const aad = bytes(`aad ${n}`, n % 3 === 0 ? 16 : n % 20);
    const plain = bytes(`xplain ${n}`, n % 2 === 0 ? 16 : n);
    const sealed = xchacha20poly1305(key, nonce, aad).encrypt(plain);
    const altered = Uint8Array.from(sealed, (b, i) => (i === n % sealed.length ? b ^ 0x80 : b));
    const head = `${toHex(key)} ${toHex(nonce)} ${hex(aad)}`;
    questions.push(
      { ask: `xchacha seal ${head} ${hex(plain)}`, want: hex(sealed) },
      { ask: `xchacha open ${head} ${hex(sealed)}`, want: hex(plain) },
      { ask: `xchacha open ${head} ${hex(altered)}`, want: 'refused' },
    );
  }
  check(questions);
});

test('keyed and unkeyed BLAKE2s equal an independent one', () => {
  const questions: Question[] = [];
  for (let n = 0; n < 200; n++) {
    const text = bytes(`text ${n}`, n);
    const key = bytes(`mac key ${n}`, n % 2 === 0 ? 32 : 16);
    questions.push(
      { ask: `blake2s - ${hex(text)}`, want: toHex(blake2s(text)) },
      { ask: `blake2s ${toHex(key)} ${hex(text)}`, want: toHex(blake2s(text, { key, dkLen: 16 })) },
    );
  }
  check(questions);
});

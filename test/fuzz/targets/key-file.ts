/** Key files, plain and sealed under a passphrase, after any damage. */
import { scryptSync } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import nacl from 'tweetnacl';
import { readKeyFile, writeKeyFile } from '../../../keys/key-file.ts';
import { keyToBase64 } from '../../../keys/keypair.ts';
import { attempt, bytesOf, type FuzzTarget, require, requireEqual } from '../target.ts';

const HEADER = 'culvert-sealed-key-1';
const KEY = 'yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=';
const PASSPHRASE = bytesOf('open sesame');
/** First byte of an input that is the body of a sealed file: the text is put around it. */
const BODY = 0x01;
const BODY_BYTES = 3 + 16 + 24 + 48;

/** A sealed body as the format says, at next to no cost: log2 N, r, p | salt | nonce | box. */
function sealed(log2N: number, r: number, p: number): Uint8Array {
  const salt = Buffer.alloc(16, 3);
  const nonce = Buffer.alloc(24, 4);
  const key = scryptSync(PASSPHRASE, salt, 32, { N: 2 ** log2N, r, p });
  const box = nacl.secretbox(Buffer.from(KEY, 'base64'), nonce, key);
  return Uint8Array.of(BODY, log2N, r, p, ...salt, ...nonce, ...box);
}

function textOf(body: Uint8Array): Uint8Array {
  return bytesOf(`${HEADER}\n${Buffer.from(body).toString('base64')}\n`);
}

/** True when opening it would keep a processor busy: only the refusals are of interest then. */
function isCostly(file: Uint8Array): boolean {
  const text = Buffer.from(file).toString('latin1');
  if (!text.startsWith(HEADER)) return false;
  const body = Buffer.from(text.slice(HEADER.length).trim(), 'base64');
  const [log2N = 0, r = 0, p = 0] = body;
  // scrypt demands N < 2^(128 * r / 8); what asks for more is refused at once.
  const refused = log2N >= 16 * r || log2N > 20 || r > 16 || p > 4;
  return body.length === BODY_BYTES && !refused && 2 ** log2N * r * p > 2 ** 9;
}

export const keyFile: FuzzTarget = {
  name: 'key-file',
  seeds: [
    bytesOf(`${KEY}\n`),
    bytesOf(`  ${KEY}\r\n\n`),
    textOf(sealed(1, 1, 1).subarray(1)),
    sealed(1, 1, 1),
    sealed(4, 2, 3),
    Uint8Array.of(BODY, 16, 1, 1, ...new Uint8Array(BODY_BYTES - 3)),
  ],
  words: [HEADER, KEY, '\n', '=', '==', 'A', '\u0001\u0001\u0001', '\u0014\u0010\u0004'],
  run(input) {
    const file = input[0] === BODY ? textOf(input.subarray(1)) : input;
    // Made and removed for every input: a process that is ended from outside runs no last words.
    const folder = mkdtempSync(join(tmpdir(), 'culvert-fuzz-key-'));
    try {
      return readAndWrite(file, folder);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

/** What became of the file: a refusal, or how it was kept. */
function readAndWrite(file: Uint8Array, folder: string): readonly string[] {
  const path = join(folder, 'key');
  writeFileSync(path, file, { mode: 0o600 });
  const passphrase = isCostly(file) ? undefined : PASSPHRASE;
  const read = attempt(
    Buffer.from(file).toString('latin1'),
    ['KEY_MALFORMED', 'PASSPHRASE_WRONG', 'KEY_FILE_UNUSABLE'],
    () => readKeyFile(path, passphrase),
  );
  if ('failure' in read) return [read.failure];
  const key = read.value;
  require(key.length === 32, 'key length');
  const copy = join(folder, 'copy');
  writeKeyFile(copy, key, { replace: true });
  requireEqual(keyToBase64(readKeyFile(copy)), keyToBase64(key), 'written and read again');
  return [Buffer.from(file).toString('latin1').startsWith(HEADER) ? 'opened' : 'plain'];
}

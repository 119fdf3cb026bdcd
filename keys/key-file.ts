/**
 * Key files: one key as 44 base64 characters, owner-only, or sealed under a passphrase. Reading
 * refuses what others can read; writing is atomic and durable.
 */
import {
  closeSync,
  fstatSync,
  fsyncSync,
  linkSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import nacl from 'tweetnacl';
import { concat, fromBase64, toBase64, wipe } from '../shared/bytes.ts';
import { VpnError } from '../shared/errors.ts';
import { randomBytes, scrypt } from '../shared/node-crypto.ts';
import {
  KEY_BYTES,
  keyFromBase64,
  keyToBase64,
  type PresharedKey,
  type PrivateKey,
} from './keypair.ts';

/** First line of a file sealed under a passphrase. */
const SEALED_HEADER = 'culvert-sealed-key-1';
const SALT_BYTES = 16;
/**
 * scrypt's cost as log2 N, r, p (RFC 7914 section 2): 32 MiB and about 0.1 s. It is written to the
 * file; a file that asks for more than MAX_LOG2_N is refused before any memory is taken.
 */
const LOG2_N = 15;
const MAX_LOG2_N = 20;
const BLOCK_SIZE = 8;
const PARALLEL = 1;
const MAX_FILE_BYTES = 4096;

/**
 * Reads a key file. Sealed files need the passphrase.
 * Errors: KEY_FILE_UNUSABLE, KEY_FILE_READABLE_BY_OTHERS, KEY_MALFORMED, PASSPHRASE_WRONG.
 */
export function readKeyFile<K extends PrivateKey | PresharedKey = PrivateKey>(
  path: string,
  passphrase?: Uint8Array,
): K {
  const text = readOwnerOnly(path);
  if (text.startsWith(SEALED_HEADER)) return openSealed(path, text, passphrase) as Uint8Array as K;
  const key = keyFromBase64<K>(text.trim());
  if (key === null) throw new VpnError('KEY_MALFORMED', `${path} holds no key`);
  return key;
}

/** Whether there is a file at `path`; a key that cannot be read is still a key. */
export function keyFileExists(path: string): boolean {
  try {
    closeSync(openSync(path, 'r'));
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ENOENT';
  }
}

/**
 * Writes a key file with mode 0600: complete and on disk when this returns, or not there at all.
 * `replace` false: an existing file stays (KEY_FILE_EXISTS). Errors: KEY_FILE_UNUSABLE.
 */
export function writeKeyFile(
  path: string,
  key: PrivateKey | PresharedKey,
  options: { passphrase?: Uint8Array; replace?: boolean } = {},
): void {
  const text = options.passphrase ? seal(key, options.passphrase) : `${keyToBase64(key)}\n`;
  writeOwnerOnly(path, text, options.replace === true);
}

/**
 * Writes `text` to `path` with mode 0600, atomically and durably: temporary file, fsync, rename,
 * fsync of the folder. Errors: KEY_FILE_EXISTS (without `replace`), KEY_FILE_UNUSABLE.
 */
export function writeOwnerOnly(path: string, text: string | Uint8Array, replace: boolean): void {
  const temporary = `${path}.${process.pid}.new`;
  try {
    // Of a process before us that had our number, as in a container, and was killed here.
    rmSync(temporary, { force: true });
    const fd = openSync(temporary, 'wx', 0o600);
    try {
      writeFileSync(fd, text);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    // link() fails when the name is taken; rename() would replace it.
    if (replace) renameSync(temporary, path);
    else linkSync(temporary, path);
    syncFolder(dirname(path));
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EEXIST' && !replace) {
      throw new VpnError('KEY_FILE_EXISTS', `${path} exists already`, { cause });
    }
    throw new VpnError('KEY_FILE_UNUSABLE', `cannot write ${path}: ${code}`, { cause });
  } finally {
    rmSync(temporary, { force: true });
  }
}

function syncFolder(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** The text of a file that only its owner may read. */
function readOwnerOnly(path: string): string {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const what = code === 'ENOENT' ? 'does not exist' : `cannot be read (${code})`;
    throw new VpnError('KEY_FILE_UNUSABLE', `the key file ${path} ${what}`, { cause });
  }
  try {
    // The descriptor is asked, not the path: what is checked is what is read.
    const { mode } = fstatSync(fd);
    if ((mode & 0o170000) !== 0o100000) {
      throw new VpnError('KEY_FILE_UNUSABLE', `${path} is not a regular file`);
    }
    if ((mode & 0o077) !== 0) {
      const bits = (mode & 0o777).toString(8).padStart(4, '0');
      throw new VpnError(
        'KEY_FILE_READABLE_BY_OTHERS',
        `the key file ${path} is open to others (mode ${bits})`,
      );
    }
    const buffer = Buffer.alloc(MAX_FILE_BYTES);
    const length = readSync(fd, buffer, 0, buffer.length, 0);
    const text = buffer.toString('latin1', 0, length);
    wipe(buffer);
    return text;
  } finally {
    closeSync(fd);
  }
}

/**
 * The header, then base64 of: log2 N (1) | r (1) | p (1) | salt (16) | nonce (24) | secretbox of
 * the key (32 + 16), under scrypt(passphrase, salt).
 */
function seal(key: Uint8Array, passphrase: Uint8Array): string {
  const cost = Uint8Array.of(LOG2_N, BLOCK_SIZE, PARALLEL);
  const salt = randomBytes(SALT_BYTES);
  const nonce = randomBytes(nacl.secretbox.nonceLength);
  const sealingKey = scrypt(passphrase, salt, { log2N: LOG2_N, r: BLOCK_SIZE, p: PARALLEL });
  const box = nacl.secretbox(key, nonce, sealingKey);
  wipe(sealingKey);
  return `${SEALED_HEADER}\n${toBase64(concat(cost, salt, nonce, box))}\n`;
}

function openSealed(path: string, text: string, passphrase: Uint8Array | undefined): Uint8Array {
  if (passphrase === undefined) {
    throw new VpnError('PASSPHRASE_WRONG', `${path} is sealed under a passphrase; none was given`);
  }
  const body = fromBase64(text.slice(SEALED_HEADER.length).trim());
  const nonceAt = 3 + SALT_BYTES;
  const boxAt = nonceAt + nacl.secretbox.nonceLength;
  const length = boxAt + KEY_BYTES + nacl.secretbox.overheadLength;
  const [log2N = 0, r = 0, p = 0] = body ?? [];
  const affordable = log2N >= 1 && log2N <= MAX_LOG2_N && r >= 1 && r <= 16 && p >= 1 && p <= 4;
  // N must be below 2^(128 * r / 8) (RFC 7914 section 2).
  if (body?.length !== length || !affordable || log2N >= 16 * r) {
    throw new VpnError('KEY_MALFORMED', `${path} is damaged`);
  }
  const sealingKey = scrypt(passphrase, body.subarray(3, nonceAt), { log2N, r, p });
  const key = nacl.secretbox.open(body.subarray(boxAt), body.subarray(nonceAt, boxAt), sealingKey);
  wipe(sealingKey);
  if (key === null) throw new VpnError('PASSPHRASE_WRONG', `the passphrase does not open ${path}`);
  return key;
}

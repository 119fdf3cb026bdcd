/** Reading what holds a secret: bounded, and refused when others can read it. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { VpnError } from '../shared/errors.ts';

const REGULAR = 0o100000;
const PIPE = 0o010000;

/**
 * The text of a file or pipe, at most `limit` bytes; `-` is standard input. `what`: what it holds,
 * for errors. Throws VpnError KEY_FILE_UNUSABLE, KEY_FILE_READABLE_BY_OTHERS, and what `tooLarge`
 * returns.
 */
export function readSecretText(
  path: string,
  { what, limit, tooLarge }: { what: string; limit: number; tooLarge: () => VpnError },
): string {
  const isInput = path === '-';
  let fd: number | null = null;
  try {
    fd = isInput ? 0 : openSync(path, 'r');
    const { mode } = fstatSync(fd);
    const kind = mode & 0o170000;
    // A pipe is welcome (`connect <(pass show office)` arrives as one); an endless device is not.
    if (!isInput && kind !== REGULAR && kind !== PIPE) {
      throw new VpnError('KEY_FILE_UNUSABLE', `${path} is neither a file nor a pipe`);
    }
    if (!isInput && kind === REGULAR && (mode & 0o077) !== 0) {
      const bits = (mode & 0o777).toString(8).padStart(4, '0');
      throw new VpnError(
        'KEY_FILE_READABLE_BY_OTHERS',
        `${path} holds ${what} and is open to others (mode ${bits})`,
      );
    }
    return readBounded(fd, limit, tooLarge);
  } catch (cause) {
    if (cause instanceof VpnError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    throw new VpnError('KEY_FILE_UNUSABLE', `cannot read ${path}: ${code}`, { cause });
  } finally {
    if (fd !== null && !isInput) closeSync(fd);
  }
}

function readBounded(fd: number, limit: number, tooLarge: () => VpnError): string {
  const bytes = Buffer.alloc(limit + 1);
  let size = 0;
  for (;;) {
    const read = readSync(fd, bytes, size, bytes.length - size, null);
    if (read === 0) return bytes.toString('utf8', 0, size);
    size += read;
    if (size > limit) throw tooLarge();
  }
}

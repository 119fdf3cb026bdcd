/** QR codes: on a terminal, or as files (SVG, PNG) that are as secret as the text, for the owner alone. */
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { crc32, deflateSync } from 'node:zlib';
import encodeQR from 'qr';
import { writeOwnerOnly } from '../keys/key-file.ts';
import { concat } from '../shared/bytes.ts';
import { VpnError } from '../shared/errors.ts';

/** Quiet zone around the code, modules (ISO/IEC 18004 asks for four). */
const BORDER = 4;
/** What the largest code holds with the error correction in use, bytes (ISO/IEC 18004, 40-M). */
const MAX_BYTES = 2331;
/** Pixels of a module. */
const SCALE = 8;

/** Throws VpnError KEY_FILE_EXISTS, KEY_FILE_UNUSABLE when no picture can be written to `path`. */
export function requireNewPicture(path: string): void {
  if (existsSync(path)) {
    const hint = 'Name another file; nothing was made.';
    throw new VpnError('KEY_FILE_EXISTS', `${path} exists already`, { hint });
  }
  if (!existsSync(dirname(path))) {
    throw new VpnError('KEY_FILE_UNUSABLE', `there is no directory ${dirname(path)}`);
  }
}

/** `text` as a picture of block characters. Errors: QR_TOO_LONG. */
export function terminalQr(text: string): string {
  requireFit(text);
  return encodeQR(text, 'term', { border: 2 });
}

/**
 * Writes `text` as a picture to `path`, mode 0600. Errors: QR_TOO_LONG, KEY_FILE_EXISTS,
 * KEY_FILE_UNUSABLE.
 */
export function writeQrPicture(path: string, text: string, format: 'svg' | 'png'): void {
  requireFit(text);
  const picture =
    format === 'svg'
      ? encodeQR(text, 'svg', { border: BORDER })
      : pngOf(encodeQR(text, 'raw', { border: BORDER }), SCALE);
  writeOwnerOnly(path, picture, false);
}

function requireFit(text: string): void {
  const bytes = Buffer.byteLength(text);
  if (bytes <= MAX_BYTES) return;
  throw new VpnError('QR_TOO_LONG', `a QR code holds ${MAX_BYTES} bytes, and this is ${bytes}`);
}

/** PNG (RFC 2083) of black and white modules: one bit a pixel, 0 is black, no filter. */
export function pngOf(modules: readonly (readonly boolean[])[], scale: number): Uint8Array {
  const size = modules.length * scale;
  const row = Math.ceil(size / 8);
  const pixels = new Uint8Array(size * (1 + row));
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const isBlack = modules[Math.floor(y / scale)]![Math.floor(x / scale)];
      if (!isBlack) pixels[y * (1 + row) + 1 + (x >> 3)]! |= 0x80 >> (x & 7);
    }
  }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(size, 0);
  header.writeUInt32BE(size, 4);
  // Bit depth 1, greyscale, deflate, no filter method, not interlaced.
  header.set([1, 0, 0, 0, 0], 8);
  return concat(
    Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a),
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(pixels)),
    chunk('IEND', new Uint8Array(0)),
  );
}

function chunk(type: string, data: Uint8Array): Uint8Array {
  const body = concat(new TextEncoder().encode(type), data);
  const [length, checksum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(data.length);
  checksum.writeUInt32BE(crc32(body));
  return concat(length, body, checksum);
}

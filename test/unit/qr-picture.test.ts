/** QR codes as files and on a terminal. */
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32, inflateSync } from 'node:zlib';
import { afterAll, expect, it } from 'vitest';
import { createProgram } from '../../server/commands.ts';
import { pngOf, requireNewPicture, writeQrPicture } from '../../server/qr-picture.ts';
import { codeOf } from './store-suite.ts';

const folder = mkdtempSync(join(tmpdir(), `culvert-qr-${process.pid}-`));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Chunks of a PNG whose checksums hold. */
function chunksOf(png: Buffer): Map<string, Buffer> {
  expect(png.subarray(0, 8).toString('hex')).toBe('89504e470d0a1a0a');
  const chunks = new Map<string, Buffer>();
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    const body = png.subarray(at + 4, at + 8 + length);
    expect(png.readUInt32BE(at + 8 + length)).toBe(crc32(body));
    chunks.set(body.toString('latin1', 0, 4), body.subarray(4));
    at += 12 + length;
  }
  return chunks;
}

it('writes modules as black and white pixels', () => {
  const png = Buffer.from(
    pngOf(
      [
        [true, false],
        [false, false],
      ],
      5,
    ),
  );
  const chunks = chunksOf(png);
  expect([...chunks.keys()]).toEqual(['IHDR', 'IDAT', 'IEND']);
  expect(chunks.get('IHDR')?.readUInt32BE(0)).toBe(10);
  const rows = inflateSync(chunks.get('IDAT')!);
  // Each row: filter 0, ten bits.
  expect(rows.subarray(0, 3).toString('hex')).toBe('0007c0');
  expect(rows.subarray(15, 18).toString('hex')).toBe('00ffc0');
  expect(rows).toHaveLength(30);
});

it('writes SVG and PNG for the owner alone, and over nothing', () => {
  for (const format of ['svg', 'png'] as const) {
    const path = join(folder, `code.${format}`);
    writeQrPicture(path, 'culvert1_text', format);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(codeOf(() => writeQrPicture(path, 'x', format))).toBe('KEY_FILE_EXISTS');
  }
  expect(readFileSync(join(folder, 'code.svg'), 'utf8')).toMatch(/^<svg /);
  chunksOf(readFileSync(join(folder, 'code.png')));
});

it('leaves out the code of a profile that is too long for one, and fails for a file', async () => {
  const printed = { stdout: '', stderr: '' };
  const stream = (name: keyof typeof printed) => ({
    write: (text: string) => (printed[name] += text),
  });
  const routes = Array.from({ length: 200 }, (_, n) => `10.0.${n}.0/24`).join();
  const vpnServer = (...words: string[]) =>
    createProgram({
      argv: [...words, '--state', join(folder, 'state'), '--run', join(folder, 'run')],
      env: { CULVERT_CONFIG: join(folder, 'server.yaml'), CULVERT_PUSH_ROUTES: routes },
      stdout: stream('stdout'),
      stderr: stream('stderr'),
    }).run();
  writeFileSync(join(folder, 'server.yaml'), 'endpoint: 192.0.2.1\n');
  expect(await vpnServer('invite', 'phone', '--wireguard', '--qr')).toBe(0);
  expect(printed.stdout).toContain('10.0.199.0/24');
  expect(printed.stderr).toContain('warning: no QR code is shown: a QR code holds 2331 bytes');
  const picture = join(folder, 'profile.png');
  expect(await vpnServer('invite', 'tablet', '--wireguard', '--png', picture)).toBe(1);
  expect(printed.stderr).toContain('fewer routes make a shorter profile');
  expect(existsSync(picture)).toBe(false);
});

it('holds what the largest code can', () => {
  const path = join(folder, 'full.svg');
  expect(codeOf(() => writeQrPicture(path, 'x'.repeat(2332), 'svg'))).toBe('QR_TOO_LONG');
  writeQrPicture(path, 'x'.repeat(2331), 'svg');
});

it('says that there is no place for a picture before one is made', () => {
  writeFileSync(join(folder, 'old.svg'), '');
  expect(codeOf(() => requireNewPicture(join(folder, 'old.svg')))).toBe('KEY_FILE_EXISTS');
  expect(codeOf(() => requireNewPicture(join(folder, 'none', 'x')))).toBe('KEY_FILE_UNUSABLE');
  requireNewPicture(join(folder, 'new.svg'));
});

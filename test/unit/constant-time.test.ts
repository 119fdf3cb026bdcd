/**
 * Comparing secrets must take the same time wherever they differ. A clock cannot show that on a
 * shared machine, so this reads the sources: the files that judge MACs, tags and cookies compare
 * with one routine each, which has no way out before its end.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const ROOT = new URL('../..', import.meta.url);
const read = (path: string) => readFileSync(new URL(path, ROOT), 'utf8');
/** Without comments. */
const code = (path: string) => read(path).replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '');

test('MACs, tags and cookies are compared in constant time', () => {
  const early = /\b(?:memcmp|bcmp|strncmp|std::equal|operator==)\b/;
  const native = [
    'gate.cc',
    'cookie_cipher.h',
    'keypair.cc',
    'aead_ipsecmb.cc',
    'aead_openssl.cc',
    'x25519.cc',
  ];
  for (const file of native)
    expect([file, early.exec(code(`native/${file}`))]).toEqual([file, null]);
  expect(code('native/gate.cc').match(/equal_constant_time/g)).toHaveLength(2);
  const loop = /bool equal_constant_time\([^)]*\) \{([\s\S]*?)\n\}/.exec(
    code('native/base.h'),
  )![1]!;
  expect(loop.match(/\breturn\b/g)).toHaveLength(1);
  expect(loop).not.toMatch(/\b(?:if|break|goto)\b|&&|\|\||\?/);
});

test('nothing in the handshake compares keys or tags by a way that ends early', () => {
  const files = readdirSync(new URL('shared/noise', ROOT)).filter((f) => f !== 'tai64n.ts');
  expect(files).toContain('crypto.ts');
  for (const file of files) {
    const early = /Buffer\.compare|\.equals\(|toHex\([^)]*\)\s*[!=]==/.exec(
      code(`shared/noise/${file}`),
    );
    expect([file, early]).toEqual([file, null]);
  }
});

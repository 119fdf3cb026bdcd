/** Errors that name what closes this host. */
import { expect, test } from 'vitest';
import { withClosures } from '../../client/closures.ts';
import { VpnError } from '../../shared/errors.ts';
import type { Run } from '../../shared/system/run.ts';

/** A host with tables of a family `inet`, by name. */
const withTables =
  (...tables: string[]): Run =>
  async () => {
    const nftables = tables.map((table) => ({
      chain: { family: 'inet', table, name: 'outgoing' },
    }));
    return { stdout: JSON.stringify({ nftables }), stderr: '' };
  };
const closed = withTables(
  'culvert-protect-cvc1',
  'filter',
  'culvert-lockdown-cvc2',
  'culvert-cvs1',
);

test('who asks for a client, or does not reach a server, is told what closes the host', async () => {
  for (const [code, way] of [
    ['NOT_RUNNING', /Connect again, or run `vpn-client cleanup`/],
    ['SERVER_UNREACHABLE', /Connect with --protect, too/],
  ] as const) {
    const error = new VpnError(code, 'it is so');
    expect(await withClosures(error, closed)).toMatchObject({
      code,
      message:
        'it is so, and this host is closed: only tunnels lead out (culvert-protect-cvc1, culvert-lockdown-cvc2)',
      hint: expect.stringMatching(way),
    });
    expect(await withClosures(error, withTables('filter', 'culvert-cvs1'))).toBe(error);
  }
});

test('a client that every closure lets out is to look for its server all the same', async () => {
  const error = new VpnError('SERVER_UNREACHABLE', 'no answer');
  expect(await withClosures(error, closed, true)).toMatchObject({
    message: expect.stringContaining('this host is closed'),
    hint: error.hint,
  });
});

test('other errors, and a host whose packet filter cannot be read, stay as they are', async () => {
  const refused = new VpnError('REFUSED', 'revoked');
  expect(await withClosures(refused, closed)).toBe(refused);
  const gone = new VpnError('NOT_RUNNING', 'nobody');
  const missing: Run = () => Promise.reject(new VpnError('COMMAND_MISSING', 'no nft'));
  expect(await withClosures(gone, missing)).toBe(gone);
  const strange = new Error('strange');
  expect(await withClosures(strange, closed)).toBe(strange);
});

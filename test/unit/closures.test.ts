/** Errors that name what closes this host. */
import { expect, test } from 'vitest';
import { closureText, stillClosed, withClosures } from '../../client/closures.ts';
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

test('a client that leaves its host closed says so once, and the ways out', async () => {
  const ended = stillClosed(new VpnError('SERVER_UNREACHABLE', 'no answer'));
  expect(ended).toMatchObject({
    message: 'no answer; this host stays closed, as it was protected',
    hint: expect.stringMatching(/`vpn-client cleanup` opens .* `connect` without --protect/),
  });
  expect(await withClosures(ended, closed, true)).toBe(ended);
});

test('what closes a host on which nobody runs is named with the ways out', async () => {
  expect(await closureText(withTables('culvert-protect-cvc1', 'filter'))).toMatch(
    /closed: only tunnels lead out \(culvert-protect-cvc1\); `vpn-client cleanup` opens it/,
  );
  expect(await closureText(withTables('filter', 'culvert-cvs1'))).toBeNull();
  const missing: Run = () => Promise.reject(new VpnError('COMMAND_MISSING', 'no nft'));
  expect(await closureText(missing)).toBeNull();
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

/** Refused handshakes in the log of the server: named, and never one line for each. */
import { expect, test } from 'vitest';
import { Events } from '../../server/events.ts';
import { RefusalLog } from '../../server/refusal-log.ts';
import type { Registry } from '../../server/registry.ts';
import type { PeerId } from '../../shared/dataplane.ts';
import { createLogger } from '../../shared/log.ts';
import type { HandshakeRefusal } from '../../shared/noise/handshake.ts';

const SECOND = 1000;
const PEER = 3 as PeerId;

function harness() {
  const lines: Record<string, unknown>[] = [];
  const stream = { write: (text: string) => void lines.push(JSON.parse(text)) };
  const log = createLogger({ level: 'info', format: 'json', stream, env: {} });
  const registry = { member: () => ({ record: { name: 'laptop' } }), revokedName: () => undefined };
  const refusals = new RefusalLog(log, registry as unknown as Registry, new Events(() => 0));
  const add = (reason: HandshakeRefusal, now: number, behindSeconds?: number) =>
    refusals.add(
      {
        type: 'refused',
        reason,
        from: { address: '192.0.2.9', port: 7 },
        peer: PEER,
        ...(behindSeconds !== undefined && { behindSeconds }),
      },
      now,
    );
  return { lines, add };
}

test('each reason is said once in 10 s, with the number of those that were not', () => {
  const { lines, add } = harness();
  for (let i = 0; i < 1000; i++) add('badTimestamp', SECOND + i);
  add('tooSoon', 2 * SECOND);
  expect(lines.map((l) => l.reason)).toEqual(['badTimestamp', 'tooSoon']);
  add('badTimestamp', 11 * SECOND - 1);
  expect(lines).toHaveLength(2);
  add('badTimestamp', 11 * SECOND);
  expect(lines[2]).toMatchObject({
    reason: 'badTimestamp',
    from: '192.0.2.9:7',
    alsoRefused: 1000,
  });
  add('badTimestamp', 21 * SECOND);
  expect(lines[3]).not.toHaveProperty('alsoRefused');
});

test('a stamp far behind is told as a wrong clock, one close by as a repeated packet', () => {
  const { lines, add } = harness();
  add('replayedTimestamp', 0, 59);
  add('replayedTimestamp', 10 * SECOND, 90 * 60);
  add('replayedTimestamp', 20 * SECOND, 3 * 86_400);
  expect(lines.map((l) => l.msg)).toEqual([
    'handshake refused: a repeated packet of laptop',
    'handshake refused: the clock of laptop is 90 min behind',
    'handshake refused: the clock of laptop is 3 d behind',
  ]);
});

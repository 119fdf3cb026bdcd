/** Peers of a profile beside its server. */
import { expect, test } from 'vitest';
import type { Resolution } from '../../client/connection.ts';
import { OtherPeers } from '../../client/other-peers.ts';
import { generatePrivateKey, publicKeyOf } from '../../keys/keypair.ts';
import type { PeerSpec } from '../../shared/session/events.ts';

const AT = { address: '192.0.2.9', port: 6000 };
const FOUND: Resolution = { found: [AT], ways: [], problems: [], hopeless: false };

function peers() {
  const set: PeerSpec[] = [];
  let answer: (resolution: Resolution) => void = () => {};
  const others = new OtherPeers({
    peers: [
      {
        publicKey: publicKeyOf(generatePrivateKey()),
        endpoint: { host: 'b.example', port: 6000 },
        allowedIps: ['10.2.0.0/16'],
        persistentKeepalive: 25,
      },
    ],
    firstId: 2,
    engine: { setPeer: (_, spec) => set.push(spec) },
    resolve: () =>
      new Promise((resolve) => {
        answer = resolve;
      }),
  });
  others.start();
  return { others, set, found: () => answer(FOUND) };
}
const settled = () => new Promise((resolve) => setImmediate(resolve));

test('a peer has its settings at once, and its address when it is found', async () => {
  const { set, found } = peers();
  expect(set).toMatchObject([{ allowedIps: ['10.2.0.0/16'], persistentKeepalive: 25 }]);
  expect(set[0]).not.toHaveProperty('endpoint');
  found();
  await settled();
  expect(set[1]).toMatchObject({ endpoint: AT });
});

test('an address that is found when the client has ended is for nobody', async () => {
  const { others, set, found } = peers();
  others.close();
  found();
  await settled();
  expect(set).toHaveLength(1);
});

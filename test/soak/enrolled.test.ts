/** A server that knows 10,000 peers: it starts and answers in a moment. */
import { expect, test } from 'vitest';
import type { PublicKey } from '../../keys/keypair.ts';
import { openState } from '../../server/state.ts';
import { inNet } from '../netns/harness.ts';
import { Server } from '../netns/vpn.ts';

const PEERS = 10_000;

function fill(directory: string): void {
  const state = openState(directory);
  state.store.atomically(() => {
    for (let n = 0; n < PEERS; n++) {
      const publicKey = new Uint8Array(32).fill(9) as PublicKey;
      new DataView(publicKey.buffer).setUint32(0, n);
      const address = `10.64.${(n + 2) >> 8}.${(n + 2) & 255}`;
      const rest = { presharedKey: null, origin: 'invite', created: 1 } as const;
      state.store.addPeer({ publicKey, name: `peer-${n}`, address, ...rest });
    }
  });
  state.close();
}

test('10,000 enrolled peers: start within 5 s, peers --json within 1 s', async () => {
  await inNet(['server'], async (net) => {
    net.remember();
    const server = new Server(net);
    fill(server.instance.state);
    const started = Date.now();
    await server.start('--network', '10.64.0.0/16');
    const startMs = Date.now() - started;
    const asked = Date.now();
    const { peers } = await server.json<{ peers: object[] }>('peers');
    const peersMs = Date.now() - asked;
    expect(peers).toHaveLength(PEERS);
    // One change among many is as quick.
    const changed = Date.now();
    expect((await server.command('set', 'peer-5000', '--suspend')).code).toBe(0);
    const setMs = Date.now() - changed;
    console.log(`start ${startMs} ms, peers --json ${peersMs} ms, set ${setMs} ms`);
    expect(startMs).toBeLessThan(5_000);
    expect(peersMs).toBeLessThan(1_000);
    expect(setMs).toBeLessThan(1_000);
  });
});

/** A change of the client's own key, cut off anywhere. */
import { readdirSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { keyToBase64 } from '../../keys/keypair.ts';
import type { VpnError } from '../../shared/errors.ts';
import { callLocalSocket } from '../../shared/system/local-socket.ts';
import { SERVER_AT, type TestClient, type TestServer, World } from './client-harness.ts';

let world: World;
beforeEach(() => {
  world = new World();
});
afterEach(() => world.end());

describe('a change of the own key', () => {
  const keysOf = (c: TestClient) =>
    readdirSync(c.state, { recursive: true, encoding: 'utf8' }).filter((f) => f.endsWith('.key'));
  const keyAtServer = (s: TestServer) =>
    [...s.registry.peers()].map((m) => [m.record.name, keyToBase64(m.record.publicKey)]);
  const rotate = (c: TestClient) =>
    callLocalSocket(c.socketPath, 'rotateKey', {}, { timeoutMs: 60_000 }).then(
      (reply) => (reply as { publicKey: string }).publicKey,
      (error: VpnError) => error.code,
    );

  test('takes effect in the standing connection; the address stays, the old key is gone', async () => {
    const server = world.server();
    const a = await world.client('a', { invite: server.invite('laptop') }).start();
    for (let round = 0; round < 2; round++) {
      const before = a.client.status();
      const changed = rotate(a);
      await world.pass(3_000);
      const key = await changed;
      expect(a.client.status()).toMatchObject({ publicKey: key, state: 'connected' });
      expect(key).not.toBe(before.publicKey);
      expect(a.client.status().addresses).toEqual(before.addresses);
      expect(keyAtServer(server)).toEqual([['laptop', key]]);
      expect(keysOf(a)).toHaveLength(1);
    }
    const { publicKey } = a.client.status();
    await a.client.stop();
    const again = await world.client('a', { text: '192.0.2.2:6000' }).start();
    expect(again.ready).toMatchObject({ publicKey, addresses: ['192.168.1.2/24'] });
  });

  test('that the server never heard of is taken up again with the old key', async () => {
    const server = world.server();
    const a = await world.client('a', { invite: server.invite('laptop') }).start();
    const before = keyAtServer(server);
    // Nothing arrives any more; then the client is killed.
    world.network.filter = (d) => d.to.address !== SERVER_AT.host;
    const changed = rotate(a);
    await world.pass(2_000);
    await a.client.stop();
    expect(await changed).toBe('REQUEST_FAILED');
    expect(keysOf(a)).toHaveLength(2);
    world.network.filter = () => true;
    const again = await world.client('a', { text: '192.0.2.2:6000' }).start(15_000);
    expect(again.ready).toMatchObject({ addresses: ['192.168.1.2/24'] });
    expect(keyAtServer(server)).toEqual([['laptop', again.client.status().publicKey]]);
    expect(keyAtServer(server)).not.toEqual(before);
    expect(keysOf(again)).toHaveLength(1);
  });

  test('survives the death of both right after the server noted it', async () => {
    const server = world.server();
    const a = await world.client('a', { invite: server.invite('laptop') }).start();
    // Nothing comes back from the server.
    world.network.filter = (d) => d.from.address !== SERVER_AT.host;
    const changed = rotate(a);
    await world.pass(2_000);
    expect([...server.registry.peers()][0]?.record.nextKey).not.toBeNull();
    server.kill();
    await a.client.stop();
    expect(await changed).toBe('REQUEST_FAILED');
    world.network.filter = () => true;
    const back = world.server(server);
    const again = await world.client('a', { text: '192.0.2.2:6000' }).start(8_000);
    expect(again.ready).toMatchObject({ addresses: ['192.168.1.2/24'], name: 'laptop' });
    expect(keyAtServer(back)).toEqual([['laptop', again.client.status().publicKey]]);
    expect(keysOf(again)).toHaveLength(1);
  });
});

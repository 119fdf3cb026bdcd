/** A change of the client's own key, cut off anywhere. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { OwnKeys } from '../../client/own-keys.ts';
import { Rotation } from '../../client/rotation.ts';
import { generatePrivateKey, keyToBase64 } from '../../keys/keypair.ts';
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

  test('that cannot be written down leaves the tunnel as it is, and is completed later', async () => {
    const server = world.server();
    const a = await world.client('a', { invite: server.invite('laptop') }).start();
    const profile = join(a.state, 'clients', '192.0.2.2_6000', 'profile.json');
    world.network.filter = (d) => d.to.address !== SERVER_AT.host;
    const changed = rotate(a);
    await world.pass(500);
    const begun = readFileSync(profile, 'utf8');
    expect(begun).toContain('nextKeyFile');
    // Nothing takes the place of a folder.
    rmSync(profile);
    mkdirSync(profile);
    world.network.filter = () => true;
    await world.pass(10_000);
    expect(await changed).toBe('REQUEST_FAILED');
    expect(a.warnings.at(-1)).toMatch(/could not be followed/);
    expect(a.client.state).toBe('connected');
    expect(keysOf(a)).toHaveLength(2);
    rmSync(profile, { recursive: true });
    writeFileSync(profile, begun);
    await world.pass(130_000);
    expect(keysOf(a)).toHaveLength(1);
    expect(keyAtServer(server)).toEqual([['laptop', a.client.status().publicKey]]);
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

test('a change that is taken up again and gets no answer is asked for in the next session, or at once', async () => {
  const asked: string[] = [];
  const next = generatePrivateKey();
  const rotation = new Rotation({
    keys: { isRotating: true, beginRotation: () => next } as unknown as OwnKeys,
    request: (publicKey) => asked.push(publicKey),
    onNoted: () => {},
    onDone: () => {},
  });
  for (const count of [1, 2]) {
    rotation.leased('own');
    expect(asked).toHaveLength(count);
  }
  const changed = rotation.start('connected');
  expect(asked).toHaveLength(3);
  expect(() => rotation.start('connected')).toThrow(/being changed already/);
  rotation.close();
  await expect(changed).rejects.toMatchObject({ code: 'REQUEST_FAILED' });
});

/**
 * A change of the client's key that is cut off by kill -9, of the client, of the server, or of
 * both: the client gets in again without a new invite, and there is one key in the end.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server, tun 192.168.1.1
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { callLocalSocket } from '../../shared/system/local-socket.ts';
import { inNet, type Net } from './harness.ts';
import { layStar, serverAddress } from './topology.ts';
import { Client, PORT, Server } from './vpn.ts';
import { delay, eventually } from './waiting.ts';

const TARGET = `${serverAddress(1)}:${PORT}`;

interface Scene {
  readonly net: Net;
  readonly server: Server;
  readonly client: Client;
}

const filesOf = (client: Client, pattern: RegExp): string[] => {
  const { state } = client.instance;
  const all = readdirSync(state, { recursive: true, encoding: 'utf8' });
  return all.filter((file) => pattern.test(file)).map((file) => join(state, file));
};
const keysOf = (client: Client): string[] => filesOf(client, /\.key$/);

const profileOf = (client: Client): string =>
  readFileSync(filesOf(client, /profile\.json$/)[0]!, 'utf8');

/** A change that was begun is to be taken up again. */
const isUnderWay = (client: Client): boolean => 'nextKeyFile' in JSON.parse(profileOf(client));

async function keyOf(client: Client): Promise<string> {
  const { stdout } = await client.command('status');
  return (JSON.parse(stdout) as { publicKey: string }).publicKey;
}

/** Begins a change of key; resolves with whether it was said to be done. */
function rotate(client: Client): Promise<boolean> {
  const run = client.instance.flags[3]!;
  const socket = readdirSync(run).find((name) => /^client-.*\.sock$/.test(name))!;
  return callLocalSocket(join(run, socket), 'rotateKey', {}, { timeoutMs: 40_000 }).then(
    () => true,
    () => false,
  );
}

/** Begins a change of key, and returns `ms` after it was written down; `done` ends with it. */
async function rotateFor(client: Client, ms: number): Promise<{ done: Promise<boolean> }> {
  const before = profileOf(client);
  const done = rotate(client);
  const begun = () => isUnderWay(client) || profileOf(client) !== before;
  await eventually('a change is begun', 10_000, begun, { every: 0 });
  await delay(ms);
  return { done };
}

async function connected(body: (scene: Scene) => Promise<void>): Promise<void> {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const server = await new Server(net).start();
    const client = new Client(net, 'a');
    await client.enrol(await server.invite('a', 1));
    await client.program?.says(/connected:/);
    await body({ net, server, client });
    await client.program?.stop();
    expect(net.difference('a')).toEqual([]);
  });
}

/** The client is in, as the same; another change works and leaves one key that both know. */
async function settled({ net, server, client }: Scene): Promise<void> {
  await eventually('the tunnel carries', 40_000, () => net.reaches('a', '192.168.1.1'));
  expect(client.device()?.address).toBe('192.168.1.2');
  await eventually('the key is changed', 60_000, () => rotate(client), { every: 500 });
  const known = (await server.status()).peers.map(({ publicKey }) => publicKey);
  expect(known).toEqual([await keyOf(client)]);
  expect(keysOf(client)).toHaveLength(1);
}

test.concurrent('the client is killed at any moment of it', () =>
  connected(async (scene) => {
    const { client, server } = scene;
    for (const [round, moment] of [0, 0, 5, 10, 20, 40].entries()) {
      // A server that hears of it when the client is dead already, and one that answers.
      const late = round % 2 === 0;
      if (late) server.program?.signal('SIGSTOP');
      const { done } = await rotateFor(client, moment);
      await client.kill();
      await done;
      if (late) expect(isUnderWay(client)).toBe(true);
      server.program?.signal('SIGCONT');
      await client.connect(TARGET);
      // What was begun is taken up again, and cut off again.
      await client.program?.says(/connected:/);
      await delay(moment);
      await client.kill();
      await client.connect(TARGET);
      await client.program?.says(/connected:/);
    }
    await eventually('it is taken up again', 40_000, () => !isUnderWay(client));
    await settled(scene);
  }));

test.concurrent('the server is killed at any moment of it', () =>
  connected(async (scene) => {
    const { net, server, client } = scene;
    for (const moment of [0, 4, 12]) {
      const { done } = await rotateFor(client, moment);
      await server.kill();
      await server.start();
      await done;
      await eventually('the tunnel carries', 40_000, () => net.reaches('a', '192.168.1.1'));
    }
    await settled(scene);
  }));

test.concurrent('both are killed', () =>
  connected(async (scene) => {
    const { server, client } = scene;
    for (const moment of [0, 4, 12]) {
      const { done } = await rotateFor(client, moment);
      await Promise.all([client.kill(), server.kill()]);
      await done;
      await server.start();
      await client.connect(TARGET);
      await client.program?.says(/connected:/);
    }
    await settled(scene);
  }));

/**
 * Many real clients, each a process in a namespace of its own: they join, some come and go, the
 * server is killed, and all are back with their addresses. CULVERT_SCALE_CLIENTS says how many
 * (default 250; each needs about 80 MB). Prints its figures.
 */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { callLocalSocket } from '../../shared/system/local-socket.ts';
import { inNet } from '../netns/harness.ts';
import { layStar, serverAddress } from '../netns/topology.ts';
import { Client, type PeerLine, PORT, Server } from '../netns/vpn.ts';
import { eventually } from '../netns/waiting.ts';

const CLIENTS = Number(process.env.CULVERT_SCALE_CLIENTS ?? 250);
/** Clients that start at once: the machine has other things to do, too. */
const AT_ONCE = 6;
/** All must be back this long after the killed server is started again, ms. */
const BACK_WITHIN = 20_000;

interface Status {
  readonly peers: readonly (PeerLine & { readonly connected: boolean })[];
}

async function eachOf<T>(items: readonly T[], body: (item: T, at: number) => Promise<void>) {
  let next = 0;
  const worker = async () => {
    for (let at = next++; at < items.length; at = next++) await body(items[at]!, at);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

const secondsSince = (from: number) => Number(((performance.now() - from) / 1000).toFixed(1));

test(`${CLIENTS} clients join, come and go, and are back after a kill of the server`, async () => {
  const hosts = Array.from({ length: CLIENTS }, (_, at) => `c${at + 1}`);
  await inNet(['server', ...hosts], async (net) => {
    layStar(net, hosts);
    const server = await new Server(net).start();
    const socket = join(server.instance.flags[3] ?? '', 'server.sock');
    const clients = hosts.map((host) => new Client(net, host));
    const addresses = new Map<string, string>();
    const begun = performance.now();
    await eachOf(clients, async (client, at) => {
      const endpoints = [`${serverAddress(at + 1)}:${PORT}`];
      const wanted = { name: client.host, endpoints, address: null, expiresInSeconds: 3600 };
      const { invite } = (await callLocalSocket(socket, 'invite', wanted)) as { invite: string };
      addresses.set(client.host, await client.enrol(invite));
    });
    const joined = secondsSince(begun);
    expect(new Set(addresses.values()).size).toBe(CLIENTS);

    const churn = performance.now();
    const leaving = clients.map((client, at) => ({ client, at })).filter(({ at }) => at % 10 === 0);
    await eachOf(leaving, async ({ client, at }) => {
      await client.kill();
      const address = await client.connect(`${serverAddress(at + 1)}:${PORT}`);
      expect([client.host, address]).toEqual([client.host, addresses.get(client.host)]);
    });
    const churned = secondsSince(churn);

    await server.kill();
    const restart = performance.now();
    await server.start();
    const back = await eventually('all clients are back', BACK_WITHIN, async () => {
      const { peers } = (await callLocalSocket(socket, 'status')) as Status;
      const connected = peers.filter((peer) => peer.connected && addresses.has(peer.name));
      return connected.length === CLIENTS ? peers : null;
    });
    const returned = secondsSince(restart);
    const now = back.filter(({ name }) => addresses.has(name));
    expect(now.map(({ name, address }) => [name, address]).sort()).toEqual([...addresses].sort());
    console.log(
      JSON.stringify({ clients: CLIENTS, joined, left: leaving.length, churned, returned }),
    );
    await Promise.all(clients.map((client) => client.program?.stop(20_000)));
    await server.program?.stop();
  });
});

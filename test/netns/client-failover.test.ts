/**
 * A client that knows two servers: when the first is killed the second carries its traffic, and
 * the first again once it is back.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server, lo 10.200.0.1, tun 192.168.1.1
 *     eth1 10.78.1.2 ---- 10.78.1.1 o1 other,  lo 10.200.0.1, tun 192.168.1.1
 */
import { expect, test } from 'vitest';
import type { Capture } from './capture.ts';
import { inNet, type Net } from './harness.ts';
import { layStar, serverAddress } from './topology.ts';
import { Client, PORT, Server } from './vpn.ts';
import { eventually } from './waiting.ts';

const TARGET = '10.200.0.1';
const FIRST = `${serverAddress(1)}:${PORT}`;
const SECOND = `10.78.1.1:${PORT}`;

interface Status {
  readonly state: string;
  readonly addresses: readonly string[];
  readonly server: { readonly endpoint: string };
  readonly servers: readonly { readonly endpoint: string; readonly inUse: boolean }[];
}

async function statusOf(client: Client): Promise<Status> {
  return JSON.parse((await client.command('status')).stdout) as Status;
}

/** Both servers run, and a has been at both; the second one gives it another address. */
async function lay(net: Net): Promise<{ first: Server; second: Server; client: Client }> {
  net.wire(
    { host: 'other', device: 'o1', addresses: ['10.78.1.1/24'] },
    { host: 'a', device: 'eth1', addresses: ['10.78.1.2/24'] },
  );
  for (const host of ['server', 'other']) {
    net.ip(host, 'address', 'add', `${TARGET}/32`, 'dev', 'lo');
  }
  layStar(net, ['a']);
  const first = await new Server(net).start();
  const second = await new Server(net, 'other', 'vpn-server-other').start();
  const client = new Client(net, 'a');
  await client.enrol(await first.invite('a', 1));
  await client.program?.stop();
  await second.json('invite', 'guest', '--endpoint', SECOND, '--wireguard');
  const { invite } = await second.json<{ invite: string }>('invite', 'a', '--endpoint', SECOND);
  await client.enrol(invite);
  await client.program?.stop();
  expect(net.difference('a')).toEqual([]);
  return { first, second, client };
}

/** What leaves a without being sealed. */
function captureClear(net: Net, device: string): Promise<Capture> {
  return net.capture('a', device, `ip and src host not ${TARGET} and host ${TARGET}`);
}

interface Scene {
  readonly net: Net;
  readonly first: Server;
  readonly client: Client;
}

/** The first is killed under traffic, and the second carries it; ends with nothing sent in clear. */
async function afterTakeover(body: (scene: Scene) => Promise<void>): Promise<void> {
  await inNet(['server', 'a', 'other'], async (net) => {
    const { first, client } = await lay(net);
    client.begin(`${FIRST},${SECOND}`, '--full', '--protect');
    await client.program?.says(/connected: 192\.168\.1\.2/);
    expect(await net.reaches('a', TARGET)).toBe(true);
    expect((await statusOf(client)).servers).toEqual([
      { endpoint: FIRST, inUse: true },
      { endpoint: SECOND, inUse: false },
    ]);
    const captures = [await captureClear(net, 'eth0'), await captureClear(net, 'eth1')];
    const once = `ping -n -c 2 -i 0.2 -W 1 ${TARGET}`;
    net.start('a', 'sh', ['-c', `while :; do ${once}; sleep 0.1; done`]);

    await first.kill();
    const killed = Date.now();
    await eventually('the second carries', 60_000, () => carries(net, client, SECOND));
    const { servers, addresses } = await statusOf(client);
    expect(servers.map((server) => server.inUse)).toEqual([false, true]);
    expect(addresses).toEqual(['192.168.1.3/24']);
    console.info(`through the second after ${((Date.now() - killed) / 1000).toFixed(1)} s`);

    await body({ net, first, client });
    for (const capture of captures) expect(await capture.stop()).toHaveLength(0);
    await client.program?.stop();
    expect(net.difference('a')).toEqual([]);
  });
}

async function carries(net: Net, client: Client, endpoint: string): Promise<boolean> {
  const { state, server } = await statusOf(client);
  return state === 'connected' && server.endpoint === endpoint && net.reaches('a', TARGET);
}

// Side by side: these tests do little but wait.
test.concurrent('a server is killed under traffic: the next one takes over, and gives back', () =>
  afterTakeover(async ({ net, first, client }) => {
    await first.start();
    await eventually('the first again', 80_000, () => carries(net, client, FIRST));
    expect((await statusOf(client)).addresses).toEqual(['192.168.1.2/24']);
  }));

test.concurrent('tries of a server that stays away do not disturb what the other one carries', () =>
  afterTakeover(async ({ net, client }) => {
    const ping = ['-n', '-q', '-i', '0.1', '-w', '66', TARGET];
    const report = await net.must('a', 'ping', ping, { timeoutMs: 75_000 });
    const [, sent, received] = /(\d+) packets transmitted, (\d+)/.exec(report)!;
    expect(Number(sent) - Number(received)).toBeLessThan(5);
    expect(await carries(net, client, SECOND)).toBe(true);
  }));

test.concurrent('the first does not run when the client starts: the second is taken', async () => {
  await inNet(['server', 'a', 'other'], async (net) => {
    const { first, client } = await lay(net);
    await first.kill();
    client.begin(`${FIRST},${SECOND}`, '--timeout', '8');
    await client.program?.says(/connected: 192\.168\.1\.3/);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    await client.program?.stop();
    expect(net.difference('a')).toEqual([]);
  });
});

test.concurrent('a device that is revoked goes to the next server, and ends when none takes it', async () => {
  await inNet(['server', 'a', 'other'], async (net) => {
    const { first, second, client } = await lay(net);
    client.begin(`${FIRST},${SECOND}`);
    await client.program?.says(/connected: 192\.168\.1\.2/);
    await first.json('revoke', 'a');
    await eventually('the second carries', 10_000, async () => {
      const { state, addresses } = await statusOf(client);
      return state === 'connected' && addresses.includes('192.168.1.3/24');
    });
    await second.json('revoke', 'a');
    expect(await client.program?.end(10_000)).toMatchObject({ code: 7 });
    expect(net.difference('a')).toEqual([]);
  });
});

/**
 * Settings that change while everybody is connected.
 *
 *   a eth0 10.77.1.2 ---- \
 *   b eth0 10.77.2.2 -------- server, tun 192.168.1.1, server.yaml
 *   c eth0 10.77.3.2 ---- /   (c: a stock peer; d comes later)
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { layStar } from './topology.ts';
import { startStream } from './traffic.ts';
import { Client, Server } from './vpn.ts';
import { eventually } from './waiting.ts';
import { startWireguardGo, stripProfile } from './wireguard.ts';

/** What a push needs from reload to the routing tables of the clients, at most. */
const PROMPT_MS = 2_000;

const BEFORE = `
push: { routes: [10.20.0.0/16], mtu: 1400 }
groups: { staff: { push: { routes: [10.20.0.0/16, 10.40.0.0/16] } } }
peers: { b: { group: staff } }
`;
const AFTER = `
push: { routes: [10.30.0.0/16], mtu: 1380, keepalive: 11, dns: [10.30.0.53] }
groups: { staff: { push: { routes: [10.30.0.0/16, 10.40.0.0/16] } } }
peers: { b: { group: staff } }
`;

interface Reload {
  readonly changed: readonly string[];
  readonly atNextStart: readonly string[];
  readonly notes: readonly string[];
}

interface Shown {
  readonly name: string;
  readonly origin: string;
  readonly where: string | null;
}

interface Settings {
  readonly name: string;
  readonly lease: { readonly isCurrent: boolean; readonly notApplied: readonly string[] } | null;
  readonly profileOutdated: readonly string[] | null;
}

test('a reload reaches connected clients at once and cuts no stream', async () => {
  await inNet(['server', 'a', 'b', 'c', 'd'], async (net) => {
    layStar(net, ['a', 'b', 'c', 'd']);
    const file = join(net.directory, 'server.yaml');
    writeFileSync(file, BEFORE);
    const server = await new Server(net).start('--config', file);
    const [a, b] = [new Client(net, 'a'), new Client(net, 'b')];
    await a.enrol(await server.invite('a', 1));
    await b.enrol(await server.invite('b', 2));
    const profile = await server.profile('c', 3);
    await startWireguardGo(net, 'c', await stripProfile(net, 'c', profile), '192.168.1.4/24');
    expect(await net.reaches('c', '192.168.1.1')).toBe(true);

    /** Routes of a client through its tunnel, and the tunnel's MTU. */
    const seen = ({
      host,
      device,
    }: {
      host: string;
      device: () => { name: string } | undefined;
    }) => {
      const name = device()?.name ?? 'lo';
      const routes = JSON.parse(net.ip(host, '-json', 'route', 'show', 'dev', name)) as {
        dst: string;
      }[];
      const [link] = JSON.parse(net.ip(host, '-json', 'link', 'show', 'dev', name)) as [
        { mtu: number },
      ];
      return [...routes.map(({ dst }) => dst).filter((dst) => dst.startsWith('10.')), link.mtu];
    };
    const shows =
      (client: Client, ...wanted: (string | number)[]) =>
      async () =>
        seen({ host: client.host, device: () => client.device() }).join() === wanted.join();
    await eventually('a has its route', 5_000, shows(a, '10.20.0.0/16', 1400));
    await eventually('b has its own', 5_000, shows(b, '10.20.0.0/16', '10.40.0.0/16', 1400));

    const stream = await startStream(net, 'a', 'b', '192.168.1.3', 6);
    writeFileSync(file, AFTER);
    const reload = await server.json<Reload>('reload');
    expect(reload.changed).toEqual([
      ...['push.routes', 'push.dns', 'push.mtu', 'push.keepalive', 'groups.staff.push.routes'],
    ]);
    await eventually('a follows', PROMPT_MS, shows(a, '10.30.0.0/16', 1380));
    await eventually('b follows', PROMPT_MS, shows(b, '10.30.0.0/16', '10.40.0.0/16', 1380));

    // Both have said so; the stock peer cannot, but its profile is known to be old.
    await eventually('status has their word', PROMPT_MS, async () => {
      const { peers } = await server.json<{ peers: readonly Settings[] }>('status');
      return ['a', 'b'].every((name) => {
        const lease = peers.find((peer) => peer.name === name)?.lease;
        return lease?.isCurrent && lease.notApplied.length === 0;
      });
    });
    expect(reload.notes).toEqual([
      'the profile printed for c is out of date: AllowedIPs, DNS, MTU, PersistentKeepalive; change it there',
    ]);
    const status = await server.json<{ peers: readonly Settings[] }>('status');
    expect(status.peers.find(({ name }) => name === 'c')).toMatchObject({
      ...{ lease: null, profileOutdated: ['AllowedIPs', 'DNS', 'MTU', 'PersistentKeepalive'] },
    });

    // A bad file changes nothing.
    writeFileSync(file, 'push: { routs: [10.99.0.0/16] }\n');
    const refused = await server.command('reload');
    expect(refused.code).toBe(5);
    expect(refused.stdout).toContain('server.yaml:1:9 unknown key push.routs');
    expect(await shows(a, '10.30.0.0/16', 1380)()).toBe(true);

    // SIGHUP is a reload.
    writeFileSync(file, `${AFTER}\nmaxClients: 50\nworkers: 1\n`.replaceAll('10.30', '10.31'));
    server.program?.signal('SIGHUP');
    await eventually('a follows a signal', PROMPT_MS + 1_000, shows(a, '10.31.0.0/16', 1380));
    const again = await server.json<Reload>('reload');
    expect(again).toMatchObject({ changed: [], atNextStart: ['workers'] });
    await stream.end(60_000);

    // Settings of the server itself, too: relaying, where it is reached, an address by command.
    expect(await net.reaches('a', '192.168.1.3')).toBe(true);
    const own = 'clientToClient: off\nendpoint: vpn.example\nlog: warn\n';
    writeFileSync(file, `${AFTER}\n${own}`.replaceAll('10.30', '10.31'));
    const last = await server.json<Reload>('reload');
    expect(last.changed).toEqual(['endpoint', 'clientToClient', 'maxClients', 'log']);
    expect(await net.reaches('a', '192.168.1.3')).toBe(false);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    const invite = await server.json<{ endpoints: readonly string[] }>('invite', 'e');
    expect(invite.endpoints).toEqual(['vpn.example:6000']);
    await server.json('set', 'a', '--address', '192.168.1.60');
    await eventually('a moves', PROMPT_MS, () => a.device()?.address === '192.168.1.60');
    const shown = await server.json<{ running: boolean; settings: readonly Shown[] }>(
      'config',
      'show',
    );
    expect(shown.running).toBe(true);
    expect(shown.settings.find(({ name }) => name === 'listen')).toMatchObject({
      where: '--listen',
    });
    expect(shown.settings.find(({ name }) => name === 'endpoint')).toMatchObject({
      origin: 'file',
    });

    // Who comes later has it from the start.
    const d = new Client(net, 'd');
    await d.enrol(await server.invite('d', 4));
    await eventually('d has it', 5_000, shows(d, '10.31.0.0/16', 1380));
  });
});

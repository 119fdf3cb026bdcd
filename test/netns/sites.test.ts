/**
 * Networks behind clients reach each other, and the tunnel has IPv6.
 *
 *   ha 10.20.0.2 ---- 10.20.0.1 a 10.77.1.2 ---- 10.77.1.1 \
 *                                                           - server, tun 192.168.1.1 fd00:77::1
 *   hb 10.30.0.2 ---- 10.30.0.1 b 10.77.2.2 ---- 10.77.2.1 /
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { layStar } from './topology.ts';
import { startEcho, talk } from './traffic.ts';
import { serverWithClients } from './vpn.ts';
import { eventually } from './waiting.ts';

test('two sites reach each other through their clients, and clients talk over IPv6', async () => {
  await inNet(['server', 'a', 'b', 'ha', 'hb'], async (net) => {
    for (const [site, at] of [
      ['a', 20],
      ['b', 30],
    ] as const) {
      net.wire(
        { host: site, device: 'lan', addresses: [`10.${at}.0.1/24`] },
        { host: `h${site}`, device: 'eth0', addresses: [`10.${at}.0.2/24`] },
      );
      net.ip(`h${site}`, 'route', 'add', 'default', 'via', `10.${at}.0.1`);
      net.sysctl(site, 'net.ipv4.ip_forward=1');
    }
    layStar(net, ['a', 'b']);
    const config = join(net.directory, 'server.yaml');
    writeFileSync(config, 'network6: fd00:77::/64\n');
    const { server } = await serverWithClients(net, ['a', 'b'], '--config', config);

    // A router's link takes longer runs: cutting up what it forwards would cost far more.
    expect(net.ip('a', '-details', 'link', 'show')).not.toMatch(/ gso_max_segs 45 /);

    expect(await net.reaches('a', 'fd00:77::1')).toBe(true);
    expect(await net.reaches('a', 'fd00:77::3')).toBe(true);
    expect(await net.reaches('server', 'fd00:77::2')).toBe(true);
    const profile = await server.profile('phone', 1);
    expect(profile).toMatch(/Address = 192\.168\.1\.4\/24, ?fd00:77::4\/64/);

    // wg shows peers, not the invites they came with.
    const { device } = await server.json<{ device: string }>('status');
    const shown = await net.run('server', 'wg', ['show', device, 'peers']);
    expect(shown.stdout.trim().split('\n'), shown.stderr).toHaveLength(3);

    const set = async (...args: string[]) => (await server.command('set', ...args)).code;
    expect(await set('a', '--networks', '10.20.0.0/24')).toBe(0);
    expect(await set('b', '--networks', '10.20.0.128/25')).toBe(2);
    expect(await set('b', '--networks', '10.30.0.0/24')).toBe(0);
    const through = () => net.reaches('ha', '10.30.0.2');
    await eventually('the sites reach each other', 10_000, through, { program: server.program! });
    expect(await net.reaches('hb', '10.20.0.2')).toBe(true);
    expect(await net.reaches('server', '10.20.0.2')).toBe(true);
    await startEcho(net, 'hb', '10.30.0.2');
    expect(await talk(net, 'ha', '10.20.0.2', '10.30.0.2', 'from site to site')).toEqual({
      ...{ udp: true, tcp: true },
    });

    // Pushed to the others, not to the one it is behind.
    const routes = (host: string) => net.ip(host, 'route', 'show');
    expect(routes('a')).toMatch(/10\.30\.0\.0\/24 dev cvc/);
    expect(routes('a')).not.toMatch(/10\.20\.0\.0\/24 dev cvc/);

    expect(await set('b', '--networks', 'none')).toBe(0);
    const gone = async () => !(await net.reaches('ha', '10.30.0.2'));
    await eventually('the way is closed again', 10_000, gone, { program: server.program! });
    const routeGone = () => !routes('server').includes('10.30.0.0/24');
    await eventually('its route is gone', 5_000, routeGone, { program: server.program! });
  });
});

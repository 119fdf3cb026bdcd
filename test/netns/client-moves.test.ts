/**
 * A host that moves into a local network with the addresses of the tunnel, and from IPv6 to IPv4,
 * while it is connected.
 *
 *   a eth0 10.77.3.2, 2001:db8:3::2 --- g1 gateway g0 --- s1 server 10.77.1.1, 2001:db8:1::1
 *          then 192.168.1.77 alone      192.168.1.1            tun 192.168.1.1, lo 10.200.0.1
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet, type Net } from './harness.ts';
import { ownFiles } from './host-state.ts';
import { Client, PORT, Server } from './vpn.ts';

const TARGET = '10.200.0.1';

function lay(net: Net): void {
  net.wire(
    {
      ...{ host: 'gateway', device: 'g1' },
      addresses: ['192.168.1.1/24', '10.77.3.1/24', '2001:db8:3::1/64'],
    },
    { host: 'a', device: 'eth0', addresses: ['10.77.3.2/24', '2001:db8:3::2/64'] },
  );
  net.wire(
    { host: 'server', device: 's1', addresses: ['10.77.1.1/24', '2001:db8:1::1/64'] },
    { host: 'gateway', device: 'g0', addresses: ['10.77.1.2/24', '2001:db8:1::2/64'] },
  );
  net.sysctl('gateway', 'net.ipv4.ip_forward=1', 'net.ipv6.conf.all.forwarding=1');
  net.ip('server', 'address', 'add', `${TARGET}/32`, 'dev', 'lo');
  net.ip('server', 'route', 'add', 'default', 'via', '10.77.1.2');
  net.ip('server', 'route', 'add', '192.168.1.77/32', 'via', '10.77.1.2');
  net.ip('server', '-6', 'route', 'add', 'default', 'via', '2001:db8:1::2');
  net.ip('a', 'route', 'add', 'default', 'via', '10.77.3.1');
  net.ip('a', '-6', 'route', 'add', 'default', 'via', '2001:db8:3::1');
  const names = ['2001:db8:1::1', '10.77.1.1'].map((address) => `${address} vpn.test\n`);
  writeFileSync(join(ownFiles(net.namespace('a')), 'hosts'), names.join(''));
}

test.each([
  ['a part of the traffic', []],
  ['a full tunnel under protection', ['--full', '--protect']],
])(
  'into a network with the addresses of the tunnel, without IPv6: %s comes back',
  async (_, flags) => {
    await inNet(['server', 'gateway', 'a'], async (net) => {
      lay(net);
      const server = await new Server(net).start();
      const at = ['--endpoint', `vpn.test:${PORT}`];
      const { invite } = await server.json<{ invite: string }>('invite', 'a', ...at);
      const client = new Client(net, 'a');
      await client.enrol(invite, ...flags);
      await client.program?.says(/connected:/);
      const endpoint = async () => {
        const { stdout } = await client.command('status');
        return (JSON.parse(stdout) as { server: { endpoint: string } }).server.endpoint;
      };
      expect(await endpoint()).toMatch(/2001:db8:1::1/);

      net.ip('a', 'address', 'flush', 'dev', 'eth0', 'scope', 'global');
      net.ip('a', 'address', 'add', '192.168.1.77/24', 'dev', 'eth0');
      // Names no device: the kernel looks for the gateway.
      net.ip('a', 'route', 'add', 'default', 'via', '192.168.1.1');
      net.ip('a', '-6', 'route', 'del', 'default');
      const host = () => net.ip('a', 'route', 'show', 'default');
      expect(host()).toMatch(/via 192\.168\.1\.1 dev eth0/);
      await client.program?.says(/connected again to 10\.77\.1\.1/, 10_000);
      expect(await endpoint()).toMatch(/^10\.77\.1\.1:/);
      if (flags.length > 0) expect(await net.reaches('a', TARGET)).toBe(true);
      expect(host()).toMatch(/via 192\.168\.1\.1 dev eth0/);

      expect((await client.command('disconnect')).code).toBe(0);
      await client.program?.end();
      expect(host()).toMatch(/via 192\.168\.1\.1 dev eth0/);
    });
  },
);

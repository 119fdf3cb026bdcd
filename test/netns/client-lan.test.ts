/**
 * A tunnel beside networks that are already there: the client's local network has the same
 * addresses as the tunnel, and a tunnel in a namespace of its own.
 *
 *   a eth0 192.168.1.50 --- 192.168.1.1 g1 gateway 10.77.1.2 g0 --- 10.77.1.1 s1 server
 *   b eth0 10.77.2.2 ---------------------------------------------- 10.77.2.1 s2   tun 192.168.1.1
 */
import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import { inNet, type Net } from './harness.ts';
import { askNameServer } from './name-server.ts';
import { Program } from './program.ts';
import { layStar, serverAddress } from './topology.ts';
import { Client, commandLine, PORT, Server } from './vpn.ts';

function lay(net: Net): void {
  const [local, gateway] = ['192.168.1.50/24', '192.168.1.1/24'];
  net.wire(
    { host: 'gateway', device: 'g1', addresses: [gateway] },
    { host: 'a', device: 'eth0', addresses: [local] },
  );
  net.wire(
    { host: 'server', device: 's1', addresses: ['10.77.1.1/24'] },
    { host: 'gateway', device: 'g0', addresses: ['10.77.1.2/24'] },
  );
  net.wire(
    { host: 'server', device: 's2', addresses: ['10.77.2.1/24'] },
    { host: 'b', device: 'eth0', addresses: ['10.77.2.2/24'] },
  );
  net.sysctl('gateway', 'net.ipv4.ip_forward=1');
  net.ip('gateway', 'address', 'add', '10.99.0.1/32', 'dev', 'lo');
  net.ip('a', 'route', 'add', 'default', 'via', '192.168.1.1', 'dev', 'eth0');
  net.ip('server', 'route', 'add', '192.168.1.50/32', 'via', '10.77.1.2');
  net.remember();
}

test('a local network with the addresses of the tunnel stays, and the tunnel works', async () => {
  await inNet(['server', 'gateway', 'a', 'b'], async (net) => {
    lay(net);
    const server = await new Server(net).start();
    const endpoint = (leg: number) => ['--endpoint', `${serverAddress(leg)}:${PORT}`];
    const invite = async (name: string, leg: number) =>
      (await server.json<{ invite: string }>('invite', name, ...endpoint(leg))).invite;
    const b = new Client(net, 'b');
    const inner = await b.enrol(await invite('b', 2));
    const a = new Client(net, 'a');
    await a.enrol(await invite('a', 1));
    await a.program?.says(/connected:/);
    await a.program?.says(/! 192\.168\.1\.0\/24 is the local network of eth0, too/);
    await a.program?.says(/check +all but 192\.168\.1\.1 through cvc/);

    const way = (address: string) => net.ip('a', 'route', 'get', address);
    expect(way('192.168.1.1')).toMatch(/dev eth0/);
    expect(way(serverAddress(1))).toMatch(/via 192\.168\.1\.1 dev eth0/);
    expect(way(inner)).toMatch(/dev cvc/);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    expect(await net.reaches('a', '10.99.0.1')).toBe(true);
    expect(await net.reaches('a', inner)).toBe(true);

    // Who is in the local network still reaches this host, under whatever address.
    net.ip('gateway', 'address', 'add', '192.168.1.60/32', 'dev', 'g1');
    const asks = ['-n', '-c', '1', '-W', '2', '-I', '192.168.1.60', '192.168.1.50'];
    expect((await net.run('gateway', 'ping', asks)).code).toBe(0);
    expect(way('192.168.1.60')).toMatch(/dev cvc/);
    net.ip('gateway', 'address', 'del', '192.168.1.60/32', 'dev', 'g1');

    const { clashes } = JSON.parse((await a.command('status')).stdout) as { clashes: string[] };
    expect(clashes.join('\n')).toMatch(/192\.168\.1\.0\/24 is the local network of eth0, too/);
    expect(clashes.join('\n')).toMatch(/192\.168\.1\.1 .* the gateway of eth0/);

    // The host comes into another network, and back.
    net.ip('a', 'address', 'del', '192.168.1.50/24', 'dev', 'eth0');
    net.ip('a', 'address', 'add', '192.168.1.50/24', 'dev', 'eth0');
    net.ip('a', 'route', 'add', 'default', 'via', '192.168.1.1', 'dev', 'eth0');
    expect(way('192.168.1.1')).toMatch(/dev eth0/);

    expect((await a.command('disconnect')).code).toBe(0);
    await a.program?.end();
    expect(net.difference('a')).toEqual([]);
  });
});

test.each([
  ['a part of the traffic', ['--protect']],
  ['a full tunnel', ['--full', '--protect']],
])(
  'protection with the addresses of the local network, %s: its gateway and name server are reached',
  async (_, flags) => {
    await inNet(['server', 'gateway', 'a', 'b'], async (net) => {
      lay(net);
      for (const last of ['53', '60']) {
        net.ip('gateway', 'address', 'add', `192.168.1.${last}/32`, 'dev', 'g1');
      }
      askNameServer(net, 'a', '192.168.1.53');
      const server = await new Server(net).start();
      const a = new Client(net, 'a');
      await a.enrol(await server.invite('a', 1), ...flags);
      await a.program?.says(/connected:/);
      expect(await net.reaches('a', '192.168.1.1')).toBe(true);
      expect(await net.reaches('a', '192.168.1.53')).toBe(true);
      expect(await net.reaches('a', '192.168.1.60')).toBe(false);
      expect((await a.command('disconnect')).code).toBe(0);
      await a.program?.end();
      expect(net.difference('a')).toEqual([]);
    });
  },
);

test('a tunnel in a namespace changes nothing outside, and programs run in it', async () => {
  const name = `cvt-${process.pid}-office`;
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const server = await new Server(net).start();
    const client = new Client(net, 'a');
    await client.enrol(await server.invite('a', 1));
    await client.command('disconnect');
    await client.program?.end();
    // A namespace that the client makes must be seen by `exec`: no mounts of its own.
    const enter = (args: readonly string[]): [string, string[]] => {
      const [node, rest] = commandLine('client', [...args]);
      return ['nsenter', [`--net=/run/netns/${net.namespace('a')}`, node, ...rest]];
    };
    const { flags } = client.instance;
    const program = net.adopt(
      new Program(...enter(['connect', `${serverAddress(1)}:${PORT}`, '--netns', name, ...flags])),
    );
    await program.says(/connected:/);
    expect(net.difference('a')).toEqual([]);
    const exec = (...args: string[]) => {
      const [file, all] = enter(['exec', ...flags, ...args]);
      return spawnSync(file, all, { encoding: 'utf8' });
    };
    expect(exec('ping', '-n', '-c', '1', '-W', '2', '192.168.1.1').status).toBe(0);
    // There is no other way out of it, not even to the host's own address.
    expect(exec('ping', '-n', '-c', '1', '-W', '1', '10.77.1.2').status).not.toBe(0);
    expect(exec('--netns', name, 'sh', '-c', 'exit 42').status).toBe(42);
    expect(exec('sh', '-c', 'kill -TERM $$').status).toBe(143);
    const waits =
      'trap "exit 7" USR1; kill -USR1 $PPID; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; done';
    expect(exec('sh', '-c', waits).status).toBe(7);
    // No debugger of node opens on 127.0.0.1:9229.
    program.signal('SIGUSR1');
    server.program?.signal('SIGUSR1');
    // Its files are the caller's.
    const umask = process.umask().toString(8).padStart(4, '0');
    expect(exec('sh', '-c', 'umask').stdout.trim()).toBe(umask);
    expect(exec('no-such-program').status).toBe(127);
    expect(exec('/etc/passwd').status).toBe(126);
    expect(exec('--netns', 'cvt-none', 'true').status).toBe(3);
    const asUser = spawnSync(...enter(['exec', ...flags, 'id', '-u']), {
      encoding: 'utf8',
      env: { ...process.env, SUDO_UID: '65534', SUDO_GID: '65534' },
    });
    expect(asUser.stdout.trim()).toBe('65534');
    for (const host of ['a', 'server']) {
      expect(await net.must(host, 'cat', ['/proc/net/tcp'])).not.toMatch(/0100007F:240D /);
    }
    expect((await program.stop()).code).toBe(143);
    expect(existsSync(`/run/netns/${name}`)).toBe(false);
    expect(exec('true').status).toBe(3);
  });
});

test('single addresses and name servers of a profile are in its tunnel, not in the local network', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    net.ip('a', 'address', 'add', '192.168.1.50/24', 'dev', 'eth0');
    net.remember();
    const [own, other] = [generatePrivateKey(), generatePrivateKey()];
    const file = join(net.directory, 'office.conf');
    const peer = `[Peer]\nPublicKey = ${keyToBase64(publicKeyOf(other))}\n`;
    const inside = `PrivateKey = ${keyToBase64(own)}\nAddress = 192.168.0.2/16\nDNS = 192.168.1.53\n`;
    const ranges = 'AllowedIPs = 192.168.0.0/16, 192.168.1.7/32\n';
    writeFileSync(file, `[Interface]\n${inside}${peer}${ranges}`, { mode: 0o600 });
    const client = new Client(net, 'a');
    client.begin(file);
    await client.program?.says(/connected:/);
    const wayTo = (address: string) => /dev (\S+)/.exec(net.ip('a', 'route', 'get', address))?.[1];
    expect(wayTo('192.168.1.7')).toMatch(/^cvc/);
    expect(wayTo('192.168.1.53')).toMatch(/^cvc/);
    expect(wayTo('192.168.1.99')).toBe('eth0');
    await client.program?.stop();
    expect(net.difference('a')).toEqual([]);
  });
});

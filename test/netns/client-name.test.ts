/**
 * A server that moves, behind a tunnel with name servers of its own: only its name tells where it is now, and the name
 * servers are beyond the gateway, which lets nothing in by itself. The kernel of a checks sources
 * strictly on every device.
 *
 *   a eth0 10.0.1.2 ---- 10.0.1.1 in - gateway - out 10.77.1.2 ---- 10.77.1.1 s1 server, tun 192.168.1.1
 *                                     (NAT)    - dns 10.88.0.1 ---- 10.88.0.53 eth0 names
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet, type Net } from './harness.ts';
import { compareHostStates, readHostState } from './host-state.ts';
import { askNameServer, startNameServer } from './name-server.ts';
import { layStar, serverAddress } from './topology.ts';
import { Client, PORT, Server, vpn } from './vpn.ts';
import { eventually } from './waiting.ts';

const NAME_SERVER = '10.88.0.53';
const [BEFORE, AFTER] = ['10.77.1.1', '10.77.1.9'];

async function lay(net: Net): Promise<void> {
  const end = (host: string, device: string, address: string) => ({
    ...{ host, device, addresses: [`${address}/24`] },
  });
  net.wire(end('gateway', 'in', '10.0.1.1'), end('a', 'eth0', '10.0.1.2'));
  net.wire(end('server', 's1', BEFORE), end('gateway', 'out', '10.77.1.2'));
  net.wire(end('names', 'eth0', NAME_SERVER), end('gateway', 'dns', '10.88.0.1'));
  net.sysctl('gateway', 'net.ipv4.ip_forward=1');
  net.ip('a', 'route', 'add', 'default', 'via', '10.0.1.1');
  net.ip('names', 'route', 'add', 'default', 'via', '10.88.0.1');
  const chain = 'add chain ip n p { type nat hook postrouting priority 100; };';
  const masquerade = 'add rule ip n p oifname "out" masquerade;';
  await net.must('gateway', 'nft', [`add table ip n; ${chain} ${masquerade}`]);
  askNameServer(net, 'a', NAME_SERVER);
}

/** How strictly the kernel looks at sources and marks, but of our own device. */
async function strictness(net: Net): Promise<string> {
  const settings = await net.must('a', 'sysctl', ['-a', '-r', '[.](rp_filter|src_valid_mark)$']);
  return settings.replace(/^.*[.]cvc.*\n/gm, '');
}

function move(net: Net, from: string, to: string): void {
  net.ip('server', 'address', 'del', `${from}/24`, 'dev', 's1');
  net.ip('server', 'address', 'add', `${to}/24`, 'dev', 's1');
}

test.concurrent.each([
  ['a tunnel of some networks, with name servers for all names', []],
  ['a full tunnel', ['--full']],
  ['a full tunnel without the local network', ['--full', '--no-lan']],
  ['a full tunnel under protection', ['--full', '--protect']],
])('the server moves and its name with it: %s comes back', async (_, flags) => {
  await inNet(['server', 'gateway', 'names', 'a'], async (net) => {
    await lay(net);
    const checks = ['all', 'default', 'eth0'].map((name) => `net.ipv4.conf.${name}.rp_filter=1`);
    net.sysctl('a', ...checks);
    const strict = await strictness(net);
    const { program: names, answer } = await startNameServer(net, 'names', NAME_SERVER, BEFORE);
    // The name server that is pushed is behind the tunnel, and dead with it.
    const config = join(net.directory, 'server.yaml');
    writeFileSync(config, 'push: { dns: [192.168.1.1] }\n');
    const server = await new Server(net).start('--config', config);
    await startNameServer(net, 'server', '192.168.1.1', '10.9.9.9');
    const endpoint = ['--endpoint', `vpn.test:${PORT}`];
    const { invite } = await server.json<{ invite: string }>('invite', 'a', ...endpoint);
    const client = new Client(net, 'a');
    await client.enrol(invite, ...flags);
    await client.program?.says(/connected:/);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    const full = flags.includes('--full');
    expect(net.ip('a', 'route', 'get', NAME_SERVER)).toMatch(full ? /dev cvc/ : /dev eth0/);
    expect(await strictness(net)).toBe(strict);
    // The gateway finds this host by ARP, whose requests the kernel checks like other packets.
    net.ip('gateway', 'neigh', 'flush', 'dev', 'in');
    await net.reaches('gateway', '10.0.1.2');
    expect(net.ip('gateway', 'neigh', 'show', '10.0.1.2')).toMatch(/lladdr/);
    expect(await net.reaches('a', '10.0.1.1')).toBe(!flags.includes('--no-lan'));
    const connected = readHostState(net.namespace('a'));

    await server.kill();
    const asked = names.stdout.length;
    move(net, BEFORE, AFTER);
    writeFileSync(answer, AFTER);
    await server.start('--config', config);
    const once = 'ping -n -c 2 -i 0.2 -W 1 192.168.1.1';
    net.start('a', 'sh', ['-c', `while :; do ${once}; sleep 0.1; done`]);
    await eventually('the tunnel is back', 60_000, () => net.reaches('a', '192.168.1.1'));
    const { stdout } = await client.command('status');
    expect(JSON.parse(stdout).server).toMatchObject({ endpoint: `${AFTER}:${PORT}` });
    expect(names.stdout.slice(asked)).toContain('asked vpn.test 1\n');
    // Nothing is left of the way that was opened for the question.
    const changed = compareHostStates(connected, readHostState(net.namespace('a')));
    expect(changed).toEqual([]);
    expect(await strictness(net)).toBe(strict);
    expect((await client.command('disconnect')).code).toBe(0);
    await client.program?.end();
    move(net, AFTER, BEFORE);
    expect(net.difference('a')).toEqual([]);
  });
});

test('where no name server answers, a client ends at once when it is told to, or its time is over', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const chain = 'add chain ip n i { type filter hook input priority 0; };';
    const swallow = 'add rule ip n i udp dport 53 counter drop;';
    await net.must('server', 'nft', [`add table ip n; ${chain} ${swallow}`]);
    askNameServer(net, 'a', serverAddress(1));
    const genkey = async () => (await vpn(net, 'a', 'keygen', ['genkey'])).stdout.trim();
    const [input, key] = [await genkey(), await genkey()];
    const server = (await vpn(net, 'a', 'keygen', ['pubkey'], { input })).stdout.trim();
    const file = join(net.directory, 'office.conf');
    const own = `[Interface]\nPrivateKey = ${key}\nAddress = 10.0.0.2/24\n`;
    const peer = `[Peer]\nPublicKey = ${server}\nEndpoint = vpn.test:6000\nAllowedIPs = 10.0.0.0/24\n`;
    writeFileSync(file, own + peer, { mode: 0o600 });
    const client = new Client(net, 'a');
    const asked = async () =>
      !(await net.must('server', 'nft', ['list', 'chain', 'ip', 'n', 'i'])).includes('packets 0');

    const program = client.begin(file);
    await eventually('it asks for the name', 10_000, asked);
    // The system's resolver goes on for ten seconds.
    expect((await program.stop(8_000)).code).toBe(143);
    const connect = ['connect', file, '--timeout', '1', ...client.instance.flags];
    const late = await vpn(net, 'a', 'client', connect, { timeoutMs: 8_000 });
    expect([late.code, late.stderr]).toEqual([6, expect.stringContaining('vpn.test')]);
    expect(net.difference('a')).toEqual([]);
  });
});

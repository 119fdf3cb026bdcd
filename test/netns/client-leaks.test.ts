/**
 * What leaves a client's host in the clear, as a capture on its own wire sees it. The server is
 * the gateway, too, and stands for an attacker in the local network; 10.200.0.1 on it stands for
 * the internet.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server, lo 10.200.0.1, tun 192.168.1.1
 */
import { writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { Capture, Frame } from './capture.ts';
import { inNet, type Net } from './harness.ts';
import { askNameServer, startNameServer } from './name-server.ts';
import { layStar, serverAddress } from './topology.ts';
import { Client, commandLine, PORT, Server } from './vpn.ts';
import { delay, eventually } from './waiting.ts';

const TARGET = '10.200.0.1';
/** An address that a hostile local network claims; nobody has it. */
const PUBLIC_TARGET = '203.0.113.9';
const TARGET6 = '2001:db8:9::1';

function lay(net: Net): void {
  layStar(net, ['a']);
  net.ip('server', 'address', 'add', `${TARGET}/32`, 'dev', 'lo');
  net.ip('a', 'address', 'add', '2001:db8:1::2/64', 'dev', 'eth0', 'nodad');
  net.ip('a', '-6', 'route', 'add', 'default', 'via', '2001:db8:1::1', 'dev', 'eth0');
  net.remember();
}

/**
 * Every IP packet that a sends beyond its local network, but sealed datagrams and the neighbour's
 * business of IPv6.
 */
async function captureClear(net: Net): Promise<Capture> {
  const [link] = JSON.parse(net.ip('a', '-json', 'link', 'show', 'eth0')) as { address: string }[];
  const outgoing = `ether src ${link!.address} and (ip or ip6) and not dst net 10.77.1.0/24 and not dst net ff02::/16`;
  const neighbours = 'icmp6 and ip6[40] >= 130 and ip6[40] <= 143';
  return net.capture(
    'a',
    'eth0',
    `${outgoing} and not udp dst port ${PORT} and not (${neighbours})`,
  );
}

/** The local network gives another address. */
function readdress(net: Net, from: string, to: string): void {
  net.ip('a', 'address', 'del', from, 'dev', 'eth0');
  net.ip('a', 'address', 'add', to, 'dev', 'eth0');
  net.ip('a', 'route', 'replace', 'default', 'via', serverAddress(1), 'dev', 'eth0');
}

/** Packets to everything that must not be reached in the clear, until the network is closed. */
function startTraffic(net: Net): void {
  for (const target of [TARGET, PUBLIC_TARGET, TARGET6]) {
    const once = `ping -n -c 2 -i 0.2 -W 1 ${target}`;
    net.start('a', 'sh', ['-c', `while :; do ${once}; sleep 0.1; done`]);
  }
}

const summary = (frames: readonly Frame[]): string[] => [
  ...new Set(frames.map((frame) => frame.bytes.subarray(14, 54).toString('hex'))),
];

/** `protection` of `status`. */
async function protectionOf(client: Client): Promise<string> {
  const { stdout } = await client.command('status');
  return (JSON.parse(stdout) as { protection: string }).protection;
}

test('a full tunnel carries everything but the local network, and IPv6 is silent', async () => {
  await inNet(['server', 'a'], async (net) => {
    lay(net);
    const server = await new Server(net).start();
    const client = new Client(net, 'a');
    await client.enrol(await server.invite('a', 1), '--full');
    await client.program?.says(/! the tunnel has no name servers: names go to those of this host/);
    await client.program?.says(/connected: .* through the tunnel: everything/);
    expect(JSON.parse((await client.command('status')).stdout)).toMatchObject({ full: true });
    const capture = await captureClear(net);
    expect(await net.reaches('a', TARGET)).toBe(true);
    expect(await net.reaches('a', TARGET6)).toBe(false);
    expect(summary(await capture.stop())).toEqual([]);
    const wayTo = (address: string) => net.ip('a', 'route', 'get', address);
    expect(wayTo(TARGET)).toMatch(/dev cvc/);
    expect(wayTo(serverAddress(1))).toMatch(/dev eth0/);
    expect((await client.command('disconnect')).code).toBe(0);
    await client.program?.end();
    expect(net.difference('a')).toEqual([]);

    // Also where the kernel's rule for the host's own addresses is asked late, as with VRFs.
    net.ip('a', 'rule', 'add', 'priority', '32765', 'lookup', 'local');
    net.ip('a', 'rule', 'del', 'priority', '0');
    client.begin(`${serverAddress(1)}:${PORT}`, '--full', '--no-lan');
    await client.program?.says(/connected:/);
    for (const own of ['127.0.0.1', '10.77.1.2']) expect(wayTo(own)).toMatch(/^local .* dev lo/);
    expect(wayTo(serverAddress(1))).toMatch(/dev cvc/);
    expect(await net.reaches('a', TARGET)).toBe(true);
    // The underlay's own network changes; the tunnel goes on.
    readdress(net, '10.77.1.2/24', '10.77.1.3/24');
    await eventually('the tunnel is back', 20_000, () => net.reaches('a', TARGET));
    expect(wayTo(TARGET)).toMatch(/dev cvc/);
    await client.program?.stop();
    net.ip('a', 'rule', 'add', 'priority', '0', 'lookup', 'local');
    net.ip('a', 'rule', 'del', 'priority', '32765');
    readdress(net, '10.77.1.3/24', '10.77.1.2/24');
    expect(net.difference('a')).toEqual([]);
  });
});

test('under protection nothing leaves in the clear, whatever the local network does', async () => {
  await inNet(['server', 'a'], async (net) => {
    lay(net);
    const server = await new Server(net).start();
    const client = new Client(net, 'a');
    await client.enrol(await server.invite('a', 1));
    await client.command('disconnect');
    await client.program?.end();
    await server.kill();

    const at = `${serverAddress(1)}:${PORT}`;
    client.begin(at, '--full', '--protect', '--timeout', '80');
    await eventually('the rules are there', 10_000, async () =>
      (await net.must('a', 'nft', ['list', 'tables'])).includes('culvert-protect'),
    );
    const capture = await captureClear(net);
    startTraffic(net);
    const quiet = (when: string) => expect(summary(capture.soFar()), when).toEqual([]);
    await delay(1_000);
    quiet('while connecting');
    await server.start();
    await client.program?.says(/connected:/, 40_000);
    await eventually('the target is reached', 10_000, () => net.reaches('a', TARGET));
    expect(await protectionOf(client)).toBe('connected');
    quiet('while connected');

    // TunnelVision: routes from DHCP option 121 that are more specific than any default.
    const option121 = [`${TARGET}/32`, '0.0.0.0/1', '128.0.0.0/1'];
    for (const cidr of option121) net.ip('a', 'route', 'add', cidr, 'via', serverAddress(1));
    await delay(700);
    quiet('with routes from DHCP');
    for (const cidr of option121) net.ip('a', 'route', 'del', cidr, 'via', serverAddress(1));

    // TunnelCrack LocalNet: the local network claims public addresses.
    net.ip('a', 'address', 'add', '203.0.113.2/24', 'dev', 'eth0');
    net.ip('a', 'neigh', 'replace', PUBLIC_TARGET, 'lladdr', '02:00:00:00:00:01', 'dev', 'eth0');
    await delay(1_200);
    quiet('with a local network of public addresses');
    net.ip('a', 'neigh', 'del', PUBLIC_TARGET, 'dev', 'eth0');
    net.ip('a', 'address', 'del', '203.0.113.2/24', 'dev', 'eth0');

    // What a router advertisement makes the kernel do.
    net.ip('a', 'address', 'add', '2001:db8:9::2/64', 'dev', 'eth0', 'nodad');
    net.ip('a', 'neigh', 'replace', TARGET6, 'lladdr', '02:00:00:00:00:01', 'dev', 'eth0');
    await delay(700);
    quiet('with an advertised IPv6 network');
    net.ip('a', 'neigh', 'del', TARGET6, 'dev', 'eth0');
    net.ip('a', 'address', 'del', '2001:db8:9::2/64', 'dev', 'eth0');

    // CVE-2019-14899: the local network asks for the address inside the tunnel.
    const inner = client.device()!.address;
    net.ip('server', 'rule', 'add', 'priority', '100', 'oif', 's1', 'lookup', '99');
    net.ip('server', 'route', 'add', `${inner}/32`, 'via', '10.77.1.2', 'dev', 's1', 'table', '99');
    const asked = await net.capture('a', 'eth0', `icmp and dst host ${inner}`);
    const answers = await net.capture('a', 'eth0', `icmp and src host ${inner}`);
    await net.run('server', 'ping', ['-n', '-I', 's1', '-c', '3', '-i', '0.2', '-W', '1', inner]);
    expect((await asked.stop()).length).toBeGreaterThan(0);
    expect(summary(await answers.stop())).toEqual([]);
    quiet('when asked for its address inside the tunnel');
    // Nor is it told by ARP that the address is here.
    net.ip('server', 'route', 'replace', `${inner}/32`, 'dev', 's1', 'table', '99');
    const questions = await net.capture('a', 'eth0', `arp and host ${inner}`);
    await net.run('server', 'ping', ['-n', '-I', 's1', '-c', '1', '-W', '2', inner]);
    expect((await questions.stop()).length).toBeGreaterThan(0);
    expect(net.ip('server', 'neigh', 'show', inner, 'dev', 's1')).not.toContain('lladdr');
    net.ip('server', 'neigh', 'flush', 'dev', 's1', 'to', `${inner}/32`);
    // A connection from it stays inside, also when its other end is in the local network now: not
    // even a question for the neighbour leaves with that source.
    const moved = await net.capture('a', 'eth0', `host ${inner}`);
    await net.run('a', 'ping', ['-n', '-I', inner, '-c', '2', '-i', '0.2', '-W', '1', '10.77.1.9']);
    expect((await moved.stop()).map((frame) => frame.bytes.toString('hex'))).toEqual([]);
    net.ip('server', 'rule', 'del', 'priority', '100');
    net.ip('server', 'route', 'flush', 'table', '99');

    await server.kill();
    await eventually(
      'the client has noticed',
      40_000,
      async () => (await protectionOf(client)) === 'blocked',
    );
    quiet('with the server gone');
    await server.start();
    await eventually('the target is reached again', 40_000, () => net.reaches('a', TARGET));
    quiet('with the server back');

    await client.program?.kill();
    await delay(500);
    quiet('when the client was killed');
    const killed = (await client.command('status')).stdout;
    expect(killed).toMatch(/this host is closed: only tunnels/);
    expect(killed).toMatch(/the client of \S+ is gone without taking back what it changed/);
    const doctor = await client.command('doctor', `${TARGET}:${PORT}`);
    expect([doctor.code, doctor.stdout]).toEqual([6, expect.stringContaining('packet filter')]);
    expect(summary(await capture.stop())).toEqual([]);
    expect((await client.command('cleanup')).code).toBe(0);
    expect(net.difference('a')).toEqual([]);
  });
});

test('a full tunnel whose rules somebody removes is whole again', async () => {
  await inNet(['server', 'a'], async (net) => {
    lay(net);
    const server = await new Server(net).start();
    const client = new Client(net, 'a');
    await client.enrol(await server.invite('a', 1), '--full');
    await client.program?.says(/connected:/);
    const read = async (): Promise<string> =>
      [
        net.ip('a', 'rule', 'show'),
        net.ip('a', '-6', 'rule', 'show'),
        await net.must('a', 'nft', ['list', 'ruleset']),
      ].join('\n');
    const whole = await read();
    expect(whole).toMatch(/fwmark.*table inet culvert-/s);
    const ours = (family: string): string[] =>
      (JSON.parse(net.ip('a', family, '-json', 'rule', 'show')) as { priority: number }[])
        .map(({ priority }) => String(priority))
        .filter((priority) => !['0', '32766', '32767'].includes(priority));
    expect([ours('-4').length, ours('-6').length]).toEqual([2, 2]);
    // As network managers do with rules that are not theirs, and firewalls when loaded again.
    const removals = [
      ...['-4', '-6'].map((family) => (): void => {
        for (const priority of ours(family)) net.ip('a', family, 'rule', 'del', 'pref', priority);
      }),
      (): Promise<string> => net.must('a', 'nft', ['flush', 'ruleset']),
    ];
    for (const [at, remove] of removals.entries()) {
      await remove();
      await eventually(`removal ${at} is put right`, 10_000, async () => (await read()) === whole);
    }
    // Said when they are back.
    await client.program?.says(/removed or changed our nftables rules/);
    const capture = await captureClear(net);
    expect(await net.reaches('a', TARGET)).toBe(true);
    expect(summary(await capture.stop())).toEqual([]);
    await client.program?.stop();
    expect(net.difference('a')).toEqual([]);
  });
});

test('under protection rules that somebody flushes, removes or adds are put right', async () => {
  await inNet(['server', 'a'], async (net) => {
    lay(net);
    const server = await new Server(net).start();
    const client = new Client(net, 'a');
    await client.enrol(await server.invite('a', 1), '--protect');
    await client.program?.says(/connected:/);
    const table = ['inet', `culvert-protect-${client.device()!.name}`];
    const rules = async (): Promise<string> => {
      const text = await net.must('a', 'nft', ['list', 'table', ...table]);
      return text.replaceAll(/packets \d+ bytes \d+/g, '');
    };
    const whole = await rules();
    expect(await net.reaches('a', TARGET)).toBe(false);
    const capture = await captureClear(net);
    const pings = ['-n', '-c', '1', '-W', '1', TARGET];
    const complaints = (): number => {
      const { stdout = '', stderr = '' } = client.program ?? {};
      return (stdout + stderr).split('removed or changed the rules of the protection').length - 1;
    };
    const changes = [
      [`flush table ${table.join(' ')}`],
      ['outgoing', 'forwarded'].flatMap((chain) => [
        `flush chain ${table.join(' ')} ${chain}`,
        `delete chain ${table.join(' ')} ${chain}`,
      ]),
      [`insert rule ${table.join(' ')} outgoing accept`],
    ];
    for (const [at, change] of changes.entries()) {
      await net.must('a', 'nft', [change.join('; ')]);
      await eventually(`${change[0]} is put right`, 10_000, async () => (await rules()) === whole);
      await eventually('the log says so', 10_000, async () => complaints() === at + 1);
      const before = capture.soFar().length;
      expect((await net.run('a', 'ping', pings)).code).not.toBe(0);
      expect(capture.soFar().length, change[0]).toBe(before);
    }
    await capture.stop();
    await client.program?.stop();
    expect(net.difference('a')).toEqual([]);
  });
});

test('a protected client that ends by itself leaves the host closed, one that is told to opens it', async () => {
  await inNet(['server', 'a'], async (net) => {
    lay(net);
    const server = await new Server(net).start();
    const client = new Client(net, 'a');
    const protectedBy = ['--full', '--protect', '--timeout', '5'];
    await client.enrol(await server.invite('a', 1), ...protectedBy);
    await client.program?.says(/connected:/);
    const capture = await captureClear(net);
    startTraffic(net);
    await eventually('the target is reached', 10_000, () => net.reaches('a', TARGET));

    // Somebody takes the device away.
    net.ip('a', 'link', 'del', client.device()!.name);
    const lost = await client.program?.end();
    expect([lost?.code, lost?.stderr]).toEqual([
      1,
      expect.stringMatching(/this host stays closed/),
    ]);
    await delay(500);
    expect(summary(capture.soFar()), 'without its device').toEqual([]);

    // The next one takes over, and the server shuts it out.
    const at = `${serverAddress(1)}:${PORT}`;
    client.begin(at, ...protectedBy);
    await client.program?.says(/connected:/);
    await eventually('the target is reached', 10_000, () => net.reaches('a', TARGET));
    expect((await server.command('revoke', 'a')).code).toBe(0);
    const revoked = await client.program?.end();
    expect([revoked?.code, revoked?.stderr]).toEqual([
      7,
      expect.stringMatching(/this host stays closed[\s\S]*vpn-client cleanup/),
    ]);
    await delay(500);
    expect(summary(capture.soFar()), 'when it is shut out').toEqual([]);
    const nobody = await client.command('disconnect');
    expect([nobody.code, nobody.stdout]).toEqual([
      3,
      expect.stringMatching(/this host is closed[\s\S]*vpn-client cleanup/),
    ]);
    expect((await client.command('doctor')).stdout).toMatch(/closed to all but tunnels/);

    // A connection that fails leaves the host as it found it.
    await server.kill();
    client.begin(at, ...protectedBy);
    expect((await client.program?.end())?.code).not.toBe(0);
    await delay(500);
    expect(summary(await capture.stop()), 'when nobody answers').toEqual([]);
    expect(await net.reaches('a', TARGET)).toBe(false);
    expect((await client.command('cleanup')).code).toBe(0);
    expect(net.difference('a')).toEqual([]);
    expect(await net.reaches('a', TARGET)).toBe(true);
  });
});

test('under lockdown a spoofed answer for the name of the server opens nothing, and the rules stay', async () => {
  await inNet(['server', 'a'], async (net) => {
    lay(net);
    const { answer } = await startNameServer(net, 'server', serverAddress(1), serverAddress(1));
    askNameServer(net, 'a', serverAddress(1));
    const server = await new Server(net).start();
    const client = new Client(net, 'a');
    const { invite } = await server.json<{ invite: string }>(
      'invite',
      'a',
      '--endpoint',
      `vpn.test:${PORT}`,
    );
    await client.enrol(invite, '--full', '--lockdown');
    await client.program?.says(/connected:/);
    expect(await net.reaches('a', TARGET)).toBe(true);
    const { stderr } = await client.command('disconnect');
    expect(stderr).toMatch(/this host is closed: .* after a lockdown `vpn-client unlock`/);
    await client.program?.end();

    const capture = await captureClear(net);
    expect(await net.reaches('a', TARGET)).toBe(false);
    expect(await net.reaches('a', serverAddress(1))).toBe(true);
    // The answer leads to the target itself: nobody but us may send there, and only sealed.
    writeFileSync(answer, '10.200.0.2');
    client.begin(`vpn.test:${PORT}`, '--full', '--lockdown', '--no-lan');
    await client.program?.says(/reach/);
    expect(await net.reaches('a', '10.200.0.2')).toBe(false);
    await client.program?.stop();
    expect(summary(await capture.stop())).toEqual([]);

    expect((await client.command('cleanup')).code).toBe(0);
    expect(net.difference('a')).not.toEqual([]);
    const unlocked = await net.must('a', ...commandLine('client', ['unlock', '--json']));
    expect(unlocked).toMatch(/culvert-lockdown/);
    expect(net.difference('a')).toEqual([]);
    expect(await net.reaches('a', TARGET)).toBe(true);
  });
});

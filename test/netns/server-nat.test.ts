/**
 * The way from the tunnel to the internet and what guards it.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server out1 10.88.1.2 ---- 10.88.1.1 up1 inet, lo
 *                                         out2 10.88.2.2 ---- 10.88.2.1 up2 203.0.113.9
 *
 * The server's default route goes by out1, whose MTU is 1400. IPv6 beside it: 2001:db8:1::/64 on out1,
 * 2001:db8:99::9 on lo.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet, type Net } from './harness.ts';
import { serverAddress } from './topology.ts';
import { startEcho, talk } from './traffic.ts';
import { Client, commandLine, Server, vpn } from './vpn.ts';
import { eventually } from './waiting.ts';

const INTERNET = '203.0.113.9';
const INTERNET6 = '2001:db8:99::9';
const HOSTS = ['server', 'a', 'inet'] as const;

function layNetwork(net: Net): void {
  net.wire(
    { host: 'server', device: 's1', addresses: ['10.77.1.1/24'] },
    { host: 'a', device: 'eth0', addresses: ['10.77.1.2/24'] },
  );
  net.wire(
    { host: 'server', device: 'out1', addresses: ['10.88.1.2/24', '2001:db8:1::2/64'] },
    { host: 'inet', device: 'up1', addresses: ['10.88.1.1/24', '2001:db8:1::1/64'] },
    { mtu: 1400 },
  );
  net.wire(
    { host: 'server', device: 'out2', addresses: ['10.88.2.2/24'] },
    { host: 'inet', device: 'up2', addresses: ['10.88.2.1/24'] },
  );
  net.ip('inet', 'address', 'add', `${INTERNET}/32`, 'dev', 'lo');
  net.ip('inet', 'address', 'add', `${INTERNET6}/128`, 'dev', 'lo');
  net.ip('server', 'route', 'add', 'default', 'via', '2001:db8:1::1');
  net.ip('server', 'route', 'add', 'default', 'via', '10.88.1.1');
  net.ip('a', 'route', 'add', 'default', 'via', serverAddress(1));
  net.remember();
}

/** A client whose profile sends the internet through the tunnel. */
async function connectThrough(net: Net, server: Server): Promise<Client> {
  const profile = await server.profile('a', 1);
  const file = join(net.directory, 'a.conf');
  writeFileSync(
    file,
    profile.replace(/^(AllowedIPs = .*)$/m, `$1, 203.0.113.0/24, 2001:db8:99::/64`),
    {
      mode: 0o600,
    },
  );
  const client = new Client(net, 'a');
  await client.connect(file);
  return client;
}

interface NatReply {
  readonly state: string;
  readonly reason: string | null;
  readonly outside: { readonly ipv4: string | null; readonly ipv6: string | null };
  readonly obstacles: readonly { readonly where: string; readonly fix: readonly string[] }[];
}

async function natOf(server: Server): Promise<NatReply> {
  return (await server.json<{ nat: NatReply }>('status')).nat;
}

/** Source addresses of IPv4 frames, and the MSS of TCP SYNs. */
function seen(frames: readonly { bytes: Buffer; etherType: number }[]) {
  const packets = frames.filter((f) => f.etherType === 0x0800).map((f) => f.bytes.subarray(14));
  const syns = packets.filter((p) => p[9] === 6 && ((p[33] ?? 0) & 0x12) === 0x02);
  return {
    sources: [...new Set(packets.map((p) => [...p.subarray(12, 16)].join('.')))].sort(),
    // MSS is the first option of a Linux SYN.
    mss: [...new Set(syns.map((p) => (p[40] === 2 ? p.readUInt16BE(42) : 0)))],
  };
}

test('clients reach the internet, by whichever way the route goes, and nothing is left', async () => {
  await inNet(HOSTS, async (net) => {
    layNetwork(net);
    // One device forwards already and must do so afterwards.
    net.sysctl('server', 'net.ipv4.conf.s1.forwarding=1', 'net.ipv6.conf.s1.forwarding=1');
    net.remember();
    const config = join(net.directory, 'server.yaml');
    writeFileSync(config, 'network6: fd77::/64\n');
    const server = await new Server(net).start('--nat', 'auto', '--config', config);
    const a = await connectThrough(net, server);
    expect((await natOf(server)).outside).toEqual({ ipv4: 'out1', ipv6: 'out1' });

    await startEcho(net, 'inet', INTERNET);
    const wire = await net.capture('inet', 'up1', `host ${INTERNET}`);
    expect(await net.reaches('a', INTERNET)).toBe(true);
    expect(await talk(net, 'a', '192.168.1.2', INTERNET, 'to the internet')).toEqual({
      udp: true,
      tcp: true,
    });
    const { sources, mss } = seen(await wire.stop());
    expect(sources).toEqual(['10.88.1.2', INTERNET]);
    // 1400 of out1 less 40, though the client's device has 1420.
    expect(mss).toEqual([1360]);

    const wire6 = await net.capture('inet', 'up1', `icmp6 and host ${INTERNET6}`);
    expect(await net.reaches('a', INTERNET6)).toBe(true);
    const [request] = await wire6.stop();
    expect(request?.bytes.subarray(22, 38).toString('hex')).toBe(
      '20010db8000100000000000000000002',
    );

    // Neighbours send to tunnel addresses: to the server's own and into the tunnel.
    net.ip('inet', 'route', 'add', '192.168.1.0/24', 'via', '10.88.1.2');
    const tunnel = await net.capture('a', a.device()?.name ?? '', 'icmp');
    net.ip('inet', 'route', 'add', 'fd77::/64', 'via', '2001:db8:1::2');
    expect(await net.reaches('inet', 'fd77::1')).toBe(false);
    net.ip('inet', 'route', 'delete', 'fd77::/64');
    expect(await net.reaches('inet', '192.168.1.1')).toBe(false);
    expect(await net.reaches('inet', '192.168.1.2')).toBe(false);
    expect(await tunnel.stop()).toEqual([]);
    net.ip('inet', 'route', 'delete', '192.168.1.0/24');
    // Nor did the server become a router for others.
    net.ip('inet', 'route', 'add', '10.77.1.0/24', 'via', '10.88.1.2');
    expect(await net.reaches('inet', '10.77.1.1')).toBe(true);
    expect(await net.reaches('inet', '10.77.1.2')).toBe(false);
    net.ip('inet', 'route', 'delete', '10.77.1.0/24');

    net.ip('server', 'route', 'replace', 'default', 'via', '10.88.2.1');
    await eventually('the new way is followed', 5_000, async () => {
      return (await natOf(server)).outside.ipv4 === 'out2';
    });
    const other = await net.capture('inet', 'up2', `host ${INTERNET}`);
    expect(await talk(net, 'a', '192.168.1.2', INTERNET, 'by the other way')).toEqual({
      udp: true,
      tcp: true,
    });
    expect(seen(await other.stop())).toEqual({ sources: ['10.88.2.2', INTERNET], mss: [1380] });
    net.ip('server', 'route', 'replace', 'default', 'via', '10.88.1.1');

    expect(net.difference('server').filter((line) => /nft|sysctl/.test(line))).not.toEqual([]);
    await a.program?.stop();
    expect((await server.command('stop')).code).toBe(0);
    expect(net.difference('server')).toEqual([]);
  });
});

test('rules that a firewall flushes when it is loaded again are put back', async () => {
  await inNet(HOSTS, async (net) => {
    layNetwork(net);
    const server = await new Server(net).start('--nat', 'auto');
    const a = await connectThrough(net, server);
    const rules = async (): Promise<string> => {
      const text = await net.must('server', 'nft', ['list', 'ruleset']);
      return text.replaceAll(/packets \d+ bytes \d+/g, '');
    };
    const whole = await rules();
    expect(await net.reaches('a', INTERNET)).toBe(true);
    await net.must('server', 'nft', ['flush', 'ruleset']);
    expect(await rules()).toBe('');
    await eventually('the rules are back', 10_000, async () => (await rules()) === whole);
    expect(await net.reaches('a', INTERNET)).toBe(true);
    // Said when they are back.
    await server.program?.says(/removed or changed our nftables rules/);
    await a.program?.stop();
    await server.program?.stop();
    expect(net.difference('server')).toEqual([]);
  });
});

test('a killed server is cleaned up by the next one and by `cleanup`, which a running one refuses', async () => {
  await inNet(HOSTS, async (net) => {
    layNetwork(net);
    const server = await new Server(net).start('--nat', 'auto');
    const running = await server.command('cleanup');
    expect([running.code, running.stdout]).toEqual([8, expect.stringMatching(/ALREADY_RUNNING/)]);
    await server.kill();
    expect(net.difference('server').join()).toMatch(/culvert-cvs.*out1[.]forwarding = 1/s);
    const { undone } = await server.json<{ undone: string[] }>('cleanup');
    expect(undone.join()).toMatch(/nftables table culvert-cvs.*out1.forwarding/);
    expect(net.difference('server')).toEqual([]);
    // But what other tests have left for `wg`, whose folder is the machine's.
    const again = await server.json<{ undone: string[] }>('cleanup');
    expect(again.undone.filter((what) => !what.startsWith('socket /var/run/wireguard/'))).toEqual(
      [],
    );

    await server.start('--nat', 'auto');
    await server.kill();
    await server.start();
    expect((await natOf(server)).state).toBe('off');
    expect(net.difference('server').filter((line) => /nft|out1/.test(line))).toEqual([]);
    await server.kill();
  });
});

test('a foreign DROP is named with the fix that opens it', async () => {
  await inNet(HOSTS, async (net) => {
    layNetwork(net);
    const foreign = `table inet mine {
      chain through { type filter hook forward priority filter; policy drop; }
    }`;
    await net.must('server', 'nft', ['-f', '-'], { input: foreign });
    net.remember();
    const server = await new Server(net).start('--nat', 'auto');
    const a = await connectThrough(net, server);
    expect(await net.reaches('a', INTERNET)).toBe(false);
    const sick = await server.command('doctor');
    expect(sick.code).toBe(1);
    const { checks } = JSON.parse(sick.stdout) as {
      checks: { name: string; ok: boolean; message: string; fix: string[] }[];
    };
    expect(checks.filter(({ ok }) => !ok).map(({ name }) => name)).toEqual(['firewall']);
    const firewall = checks.find(({ name }) => name === 'firewall');
    expect(firewall?.message).toContain('table inet mine, chain through');
    expect(server.program?.stderr).toContain('a foreign firewall stops packets of clients');
    for (const command of firewall?.fix ?? []) await net.must('server', 'sh', ['-c', command]);
    expect(await net.reaches('a', INTERNET)).toBe(true);
    expect((await server.command('doctor')).code).toBe(0);

    // Forwarding that somebody turns off is found and turned on again.
    net.sysctl('server', 'net.ipv4.conf.out1.forwarding=0');
    expect(await net.reaches('a', INTERNET)).toBe(false);
    expect((await server.command('doctor')).code).toBe(0);
    expect(await net.reaches('a', INTERNET)).toBe(true);
    await net.must('server', 'nft', ['flush', 'chain', 'inet', 'mine', 'through']);
    await a.program?.stop();
    await server.program?.stop();
  });
});

test('without nft the server serves on, and says what is missing', async () => {
  await inNet(HOSTS, async (net) => {
    layNetwork(net);
    // A program whose interpreter is gone counts as missing for execve(2).
    const nothing = join(net.directory, 'nothing');
    writeFileSync(nothing, '#!/gone\n', { mode: 0o755 });
    const hide = `mount --bind ${nothing} /usr/sbin/nft && exec "$@"`;
    const folders = ['--state', join(net.directory, 's'), '--run', join(net.directory, 'r')];
    const [node, args] = commandLine('server', ['start', ...folders]);
    const program = net.start('server', 'sh', ['-c', hide, 'sh', node, ...args]);
    await program.says(/server is ready/);
    const status = await vpn(net, 'server', 'server', ['status', '--json', ...folders]);
    expect(JSON.parse(status.stdout)).toMatchObject({
      nat: { state: 'failed', reason: expect.stringMatching(/nft is not installed.*apt-get/) },
    });
    const doctor = await vpn(net, 'server', 'server', ['doctor', ...folders]);
    expect([doctor.code, doctor.stdout]).toEqual([1, expect.stringMatching(/FAIL +nat +.*nft/)]);
    expect((await program.stop()).code).toBe(143);
  });
});

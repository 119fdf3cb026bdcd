/**
 * The client stays connected by itself, whatever happens to the network beneath it.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 \
 *     eth1 10.77.9.2 ---- 10.77.9.1 s9 - server, tun 192.168.1.1
 *   b eth0 10.0.2.2 ---- 10.0.2.1 in - nat - out 10.77.2.2 ---- 10.77.2.1 s2 /
 */
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { layStar } from './topology.ts';
import { startStream } from './traffic.ts';
import { Client, commandLine, Server } from './vpn.ts';
import { eventually } from './waiting.ts';

/** Runs a command in a terminal, closes that once it says `connected`, and prints the exit code. */
const IN_TERMINAL = `
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
said = b""
while b"connected: " not in said:
    said += os.read(terminal, 65536)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`;

test('ways that change, NAT that forgets, routes that others take away: the stream goes on', async () => {
  await inNet(['server', 'a', 'nat', 'b'], async (net) => {
    net.wire(
      { host: 'server', device: 's9', addresses: ['10.77.9.1/24'] },
      { host: 'a', device: 'eth1', addresses: ['10.77.9.2/24'] },
    );
    net.wire(
      { host: 'nat', device: 'in', addresses: ['10.0.2.1/24'] },
      { host: 'b', device: 'eth0', addresses: ['10.0.2.2/24'] },
    );
    net.ip('b', 'route', 'add', 'default', 'via', '10.0.2.1');
    net.sysctl('nat', 'net.ipv4.ip_forward=1');
    const rule = 'add table ip n; add chain ip n p { type nat hook postrouting priority 100; };';
    const masquerade = 'add rule ip n p oifname "eth0" masquerade random;';
    await net.must('nat', 'nft', [`${rule} ${masquerade}`]);
    layStar(net, ['a', 'nat']);
    const server = await new Server(net).start();
    const [a, b] = [new Client(net, 'a'), new Client(net, 'b')];
    await a.enrol(await server.invite('a', 1));
    await b.enrol(await server.invite('b', 2));
    const at = async (name: string) => (await server.peer(name)).endpoint ?? '';
    const seen = (name: string, pattern: RegExp) =>
      eventually(`${name} at ${pattern}`, 4_000, async () => pattern.test(await at(name)));

    // Idle: nothing but the change itself makes a speak before its next keepalive.
    net.ip('a', 'route', 'replace', 'default', 'via', '10.77.9.1');
    net.ip('a', 'route', 'add', '10.77.1.1', 'via', '10.77.9.1');
    await seen('a', /^10\.77\.9\.2:/);
    net.ip('a', 'route', 'delete', '10.77.1.1');
    net.ip('a', 'route', 'replace', 'default', 'via', '10.77.1.1');
    await seen('a', /^10\.77\.1\.2:/);

    // Somebody flushes our device: address and routes come back.
    const { name } = a.device()!;
    net.ip('a', 'address', 'flush', 'dev', name);
    await eventually('the address is back', 4_000, () => a.device()?.address === '192.168.1.2');
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);

    // Under traffic, from behind the NAT: it forgets its mappings and has another address.
    const stream = await startStream(net, 'b', 'a', '192.168.1.2', 8);
    const before = await at('b');
    net.ip('nat', 'address', 'delete', '10.77.2.2/24', 'dev', 'eth0');
    net.ip('nat', 'address', 'add', '10.77.2.22/24', 'dev', 'eth0');
    net.ip('nat', 'route', 'replace', 'default', 'via', '10.77.2.1');
    await seen('b', /^10\.77\.2\.22:/);
    expect(await at('b')).not.toBe(before);
    // And the server gets another address: a hears it from there, with what b sends.
    net.ip('server', 'address', 'delete', '10.77.1.1/24', 'dev', 's1');
    net.ip('server', 'address', 'add', '10.77.1.9/24', 'dev', 's1');
    net.ip('a', 'route', 'replace', 'default', 'via', '10.77.1.9');
    await stream.end(40_000);
    const { server: now } = JSON.parse((await a.command('status')).stdout);
    expect(now.endpoint).toBe('10.77.1.9:6000');
    for (const client of [a, b]) expect((await client.command('status')).code).toBe(0);

    net.ip('nat', 'address', 'delete', '10.77.2.22/24', 'dev', 'eth0');
    net.ip('nat', 'address', 'add', '10.77.2.2/24', 'dev', 'eth0');
    net.ip('nat', 'route', 'replace', 'default', 'via', '10.77.2.1');
    net.ip('server', 'address', 'delete', '10.77.1.9/24', 'dev', 's1');
    net.ip('server', 'address', 'add', '10.77.1.1/24', 'dev', 's1');
    net.ip('a', 'route', 'replace', 'default', 'via', '10.77.1.1');
  });
});

test('a terminal that closes ends the client as SIGHUP does', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const server = await new Server(net).start();
    const a = new Client(net, 'a');
    await a.enrol(await server.invite('a', 1));
    await a.program?.stop();
    const [node, words] = commandLine('client', ['connect', ...a.instance.flags, '--full']);
    expect(await net.must('a', 'python3', ['-c', IN_TERMINAL, node, ...words])).toBe('129\n');
    expect(net.difference('a')).toEqual([]);
  });
});

/**
 * The harness itself, without Culvert: a forgotten trace must fail a test.
 *
 *   server s1 10.77.1.1 ---- 10.77.1.2 eth0 a
 */
import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { inNet, Net } from './harness.ts';
import { compareMachineStates, readHostState } from './host-state.ts';
import { layStar } from './topology.ts';
import { sendDatagrams, startEcho, startStream, talk, transfer } from './traffic.ts';

test('hosts reach each other, applications talk, a capture sees the text in clear', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const capture = await net.capture('server', 's1');
    expect(await net.reaches('a', '10.77.1.1')).toBe(true);
    expect(await net.reaches('a', '10.77.1.99')).toBe(false);
    await startEcho(net, 'server', '10.77.1.1');
    const said = await talk(net, 'a', '10.77.1.2', '10.77.1.1', 'in clear');
    expect(said).toEqual({ udp: true, tcp: true });
    const counted = await sendDatagrams(net, 'a', '10.77.1.1', 5000, ['00ff', 'flood 10 64']);
    expect(counted).toEqual({ sent: 11, received: 11 });
    const frames = await capture.stop();
    expect(frames.filter(({ bytes }) => bytes.includes('in clear')).length).toBe(4);
    const sizes = frames.map(({ datagram }) => datagram?.payload.length);
    expect(sizes.filter((size) => size === 64).length).toBe(20);
  });
});

test('a stream is checked byte by byte, a transfer is measured', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const stream = await startStream(net, 'a', 'server', '10.77.1.1', 2);
    await stream.end(60_000);
    expect(stream.sent).toBeGreaterThan(0);
    expect(await transfer(net, 'a', 'server', '10.77.1.1', { seconds: 1 })).toBeGreaterThan(1e6);
    const back = { seconds: 1, reverse: true };
    expect(await transfer(net, 'a', 'server', '10.77.1.1', back)).toBeGreaterThan(1e6);
  });
});

test('every kind of trace that is left behind fails the test', async () => {
  const traces: readonly (readonly [string, (net: Net) => unknown])[] = [
    ['link', (net) => net.ip('a', 'tuntap', 'add', 'dev', 'left', 'mode', 'tun')],
    ['address', (net) => net.ip('a', 'address', 'add', '10.1.2.3/32', 'dev', 'eth0')],
    ['route', (net) => net.ip('a', 'route', 'add', '10.9.0.0/16', 'via', '10.77.1.1')],
    ['rule', (net) => net.ip('a', 'rule', 'add', 'fwmark', '7', 'table', '7')],
    ['nft', (net) => net.must('a', 'nft', ['add table ip left'])],
    ['sysctl', (net) => net.sysctl('a', 'net.ipv4.conf.eth0.forwarding=1')],
  ];
  for (const [subject, leave] of traces) {
    const net = new Net(['server', 'a']);
    layStar(net, ['a']);
    await leave(net);
    await expect(net.close()).rejects.toThrow(new RegExp(`a: \\+ ${subject}: `));
    expect(existsSync(net.directory)).toBe(false);
  }
});

test('a failed test still removes its network, and shows what the programs said', async () => {
  const before = readHostState(null);
  let directory = '';
  const failing = inNet(['a'], async (net) => {
    directory = net.directory;
    net.start('a', 'sleep', ['60']);
    const talker = net.start('a', 'sh', ['-c', 'echo last words; sleep 60']);
    await talker.says(/last words/);
    throw new Error('it broke');
  });
  await expect(failing).rejects.toThrow(/it broke[\s\S]*last words/);
  expect(existsSync(directory)).toBe(false);
  expect(compareMachineStates(before, readHostState(null))).toEqual([]);
});

test('a machine may change by itself; what a test leaves on it is seen all the same', () => {
  const machine = [
    'link: 1: lo: <LOOPBACK,UP>',
    'link: 4: eth0: <BROADCAST,UP> mtu 1400',
    'address: 4: eth0 inet 10.0.0.6/24 brd 10.0.0.255 scope global dynamic eth0',
    'route: default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.6',
    'sysctl: net.ipv4.conf.all.forwarding = 0',
    'resolv.conf: nameserver 10.0.0.1',
  ];
  const byItself = [
    ...machine.filter((line) => !line.includes('eth0')),
    'link: 4: eth0: <NO-CARRIER,BROADCAST,UP> mtu 1400',
    'address: 4: eth0 inet 10.0.0.7/24 brd 10.0.0.255 scope global dynamic eth0',
    'route: default via 10.0.0.1 dev eth0 proto dhcp src 10.0.0.7',
    'route: 10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.7',
    'route6: default via fe80::1 dev eth0 proto ra metric 1024',
  ];
  expect(compareMachineStates(machine, byItself)).toEqual([]);
  for (const left of [
    'link: 5: cvc1: <POINTOPOINT>',
    'address: 5: cvc1 inet 192.168.1.2/24 scope global cvc1',
    'address: 4: eth0 inet 10.1.2.3/24 scope global eth0',
    'route: 192.168.1.0/24 dev cvc1',
    'route: 192.168.1.0/24 dev cvc1 proto kernel scope link',
    'route: 10.9.0.0/16 via 10.0.0.1 dev eth0',
    'route: 10.77.1.1 via 10.0.0.1 dev eth0 table 52001',
    'route6: unreachable default dev lo table 52000 metric 1024',
    'rule: 100: from all fwmark 0x7 lookup 7',
    'nft: table inet culvert {',
    'sysctl: net.ipv4.conf.eth0.forwarding = 1',
    'resolv.conf: nameserver 192.168.1.1',
  ]) {
    expect(compareMachineStates(machine, [...machine, left])).toEqual([`+ ${left}`]);
  }
  for (const gone of ['forwarding', 'resolv.conf']) {
    const without = machine.filter((line) => !line.includes(gone));
    expect(compareMachineStates(machine, without)).toHaveLength(1);
  }
});

/**
 * Several protected tunnels of one host at once. Servers and targets lie behind the local network,
 * so that nothing passes the rules for being local.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server, lo 198.51.100.1 and .53, tun 192.168.1.1
 *     eth1 10.78.1.2 ---- 10.78.1.1 o1 other,  lo 198.51.100.2,         tun 192.168.2.1
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Capture } from './capture.ts';
import { inNet, type Net } from './harness.ts';
import { askNameServer, startNameServer } from './name-server.ts';
import { layStar } from './topology.ts';
import { Client, commandLine, PORT, Server } from './vpn.ts';
import { delay, eventually } from './waiting.ts';

const FIRST = '198.51.100.1';
const SECOND = '198.51.100.2';
const NAME_SERVER = '198.51.100.53';
/** Both servers have it: reached through whatever tunnel carries everything. */
const TARGET = '10.200.0.1';
const INNER_FIRST = '192.168.1.1';
const INNER_SECOND = '192.168.2.1';
/** Nobody has it. */
const NOWHERE = '203.0.113.9';
const LOCAL_PORT = 7001;
const OWN_MARK = 77;

interface Tunnels {
  readonly servers: readonly [Server, Server];
  readonly clients: readonly [Client, Client];
}

/** Both servers run and know a; nobody is connected. */
async function lay(net: Net): Promise<Tunnels> {
  net.wire(
    { host: 'other', device: 'o1', addresses: ['10.78.1.1/24'] },
    { host: 'a', device: 'eth1', addresses: ['10.78.1.2/24'] },
  );
  net.ip('a', 'route', 'add', `${SECOND}/32`, 'via', '10.78.1.1');
  net.ip('other', 'route', 'add', 'default', 'via', '10.78.1.2');
  const addresses = { server: [FIRST, NAME_SERVER, TARGET], other: [SECOND, TARGET] };
  for (const [host, own] of Object.entries(addresses)) {
    for (const address of own) net.ip(host, 'address', 'add', `${address}/32`, 'dev', 'lo');
  }
  layStar(net, ['a']);
  const servers = [new Server(net), new Server(net, 'other', 'vpn-server-other')] as const;
  const clients = [new Client(net, 'a', 'first'), new Client(net, 'a', 'second')] as const;
  await servers[0].start();
  await servers[1].start('--network', '192.168.2.0/24');
  for (const [at, host] of [FIRST, SECOND].entries()) {
    const endpoint = ['--endpoint', `${host}:${PORT}`];
    const { invite } = await servers[at]!.json<{ invite: string }>('invite', 'a', ...endpoint);
    await clients[at]!.enrol(invite);
    await clients[at]!.program?.says(/connected:/);
    await clients[at]!.program?.stop();
  }
  expect(net.difference('a')).toEqual([]);
  return { servers, clients };
}

/** Asks for everything that has to go through a tunnel or nowhere, until the network is closed. */
function startTraffic(net: Net): void {
  for (const target of [TARGET, INNER_FIRST, INNER_SECOND, NOWHERE]) {
    const once = `ping -n -c 2 -i 0.2 -W 1 ${target}`;
    net.start('a', 'sh', ['-c', `while :; do ${once}; sleep 0.1; done`]);
  }
}

/** What leaves a in the clear: everything beyond the local networks but sealed datagrams. */
function captureClear(net: Net): Promise<Capture[]> {
  const clear = `ip and (src host 10.77.1.2 or src host 10.78.1.2 or src net 192.168.0.0/16) and not dst net 10.0.0.0/15 and not (dst net 10.64.0.0/10) and not (udp and (dst host ${FIRST} or dst host ${SECOND}) and dst port ${PORT})`;
  return Promise.all(['eth0', 'eth1'].map((device) => net.capture('a', device, clear)));
}

function expectQuiet(captures: readonly Capture[], when: string): void {
  const destinations = captures.flatMap((capture) =>
    capture.soFar().map(({ bytes }) => [...bytes.subarray(30, 34)].join('.')),
  );
  expect([...new Set(destinations)], when).toEqual([]);
}

async function stateOf(client: Client): Promise<string> {
  const { stdout } = await client.command('status');
  const { state, protection } = JSON.parse(stdout) as { state: string; protection: string };
  return `${state} ${protection}`;
}

const reachesAll = async (net: Net, ...targets: string[]): Promise<boolean> =>
  (await Promise.all(targets.map((target) => net.reaches('a', target)))).every(Boolean);

test('two protected tunnels work at once, and nothing leaves while one connects, is blocked, or is killed', async () => {
  await inNet(['server', 'a', 'other'], async (net) => {
    const { servers, clients } = await lay(net);
    const [first, second] = clients;
    const tables = () => net.must('a', 'nft', ['list', 'tables']);
    await servers[1].kill();
    second.begin(`${SECOND}:${PORT}`, '--protect', '--timeout', '80');
    await eventually('its rules are there', 10_000, async () =>
      (await tables()).includes('culvert-protect'),
    );
    const captures = await captureClear(net);
    startTraffic(net);
    await delay(700);
    expectQuiet(captures, 'while the second is connecting');

    const port = ['--local-port', String(LOCAL_PORT)];
    first.begin(`${FIRST}:${PORT}`, '--full', '--protect', ...port);
    await first.program?.says(/connected:/);
    expect(await reachesAll(net, TARGET, INNER_FIRST)).toBe(true);
    expectQuiet(captures, 'with the first connected beside the second that connects');
    await servers[1].start('--network', '192.168.2.0/24');
    await second.program?.says(/connected:/, 40_000);
    expect(await reachesAll(net, TARGET, INNER_FIRST, INNER_SECOND)).toBe(true);
    expect(await reachesAll(net, NOWHERE)).toBe(false);
    expectQuiet(captures, 'with both connected');

    await servers[0].kill();
    await eventually(
      'the first is blocked',
      60_000,
      async () => (await stateOf(first)) === 'reconnecting blocked',
    );
    expect(await reachesAll(net, INNER_SECOND)).toBe(true);
    expectQuiet(captures, 'with the first blocked');
    await servers[0].start();
    await eventually('the first is back', 60_000, () => reachesAll(net, TARGET));

    await first.program?.kill();
    expect(await reachesAll(net, INNER_SECOND)).toBe(true);
    // Whoever has the port of the killed client now has not its mark.
    const send = `const s = require('node:dgram').createSocket('udp4');
      s.bind(${LOCAL_PORT}, () => s.send('x', ${PORT}, '${NOWHERE}', (e) => { console.log(e ? e.code : 'sent'); s.close(); }));`;
    await net.run('a', process.execPath, ['-e', send]);
    await delay(300);
    expectQuiet(captures, 'with the first killed');
    await second.program?.stop();
    second.begin(`${SECOND}:${PORT}`, '--protect');
    await second.program?.says(/connected:/);
    expect(await reachesAll(net, INNER_SECOND)).toBe(true);
    expectQuiet(captures, 'with the second again beside the rules of the killed one');

    expect((await first.command('cleanup')).code).toBe(0);
    expect(await tables()).toMatch(/^table inet culvert-protect-(\w+)\ntable arp culvert-\1\n$/);
    expect(await reachesAll(net, INNER_SECOND)).toBe(true);
    await net.must('a', 'nft', ['flush', 'ruleset']);
    await eventually('the rules are back', 5_000, async () =>
      (await tables()).includes('culvert-protect'),
    );
    for (const capture of captures) await capture.stop();
    await second.program?.stop();
    expect(net.difference('a')).toEqual([]);
  });
});

test('of two full tunnels the later one carries everything, and neither swallows the other', async () => {
  await inNet(['server', 'a', 'other'], async (net) => {
    // Replies of the servers have to pass the kernel's check of their source, too.
    net.sysctl('a', 'net.ipv4.conf.all.rp_filter=1');
    const { servers, clients } = await lay(net);
    const [first, second] = clients;
    const wayTo = (address: string) => net.ip('a', 'route', 'get', address);
    const deviceOf = (at: 1 | 2) => new RegExp(`dev (\\S+) .*src 192\\.168\\.${at}\\.`);
    first.begin(`${FIRST}:${PORT}`, '--full', '--protect');
    await first.program?.says(/connected:/);
    // Not before: until there are rules the kernel answers what servers send late.
    const captures = await captureClear(net);
    expect(wayTo(TARGET)).toMatch(deviceOf(1));
    second.begin(`${SECOND}:${PORT}`, '--full', '--protect');
    await second.program?.says(/connected:/);
    expect(wayTo(TARGET)).toMatch(deviceOf(2));
    expect(await reachesAll(net, TARGET, INNER_FIRST, INNER_SECOND)).toBe(true);

    await servers[0].kill();
    await servers[0].start();
    await eventually('the first is back', 40_000, () => reachesAll(net, INNER_FIRST));
    expect(await stateOf(first)).toBe('connected connected');
    await first.program?.stop();
    expect(await reachesAll(net, TARGET, INNER_SECOND)).toBe(true);
    first.begin(`${FIRST}:${PORT}`, '--full', '--protect');
    await first.program?.says(/connected:/);
    await second.program?.kill();
    expect(await reachesAll(net, TARGET)).toBe(true);
    expectQuiet(captures, 'all the while');
    expect((await second.command('cleanup')).code).toBe(0);
    expect(await reachesAll(net, TARGET)).toBe(true);
    for (const capture of captures) await capture.stop();
    await first.program?.stop();
    expect(net.difference('a')).toEqual([]);
  });
});

test('a protected client finds its server by name beside another one', async () => {
  await inNet(['server', 'a', 'other'], async (net) => {
    askNameServer(net, 'a', NAME_SERVER);
    const { servers, clients } = await lay(net);
    await startNameServer(net, 'server', NAME_SERVER, FIRST);
    const endpoint = ['--endpoint', `vpn.test:${PORT}`];
    const { invite } = await servers[0].json<{ invite: string }>('invite', 'b', ...endpoint);
    clients[1].begin(`${SECOND}:${PORT}`, '--protect');
    await clients[1].program?.says(/connected:/);
    const asked = (
      await Promise.all([
        net.capture('a', 'eth0', `udp and dst host ${NAME_SERVER} and dst port 53`),
      ])
    )[0];
    const query =
      "require('node:dns').resolve4('other.test', (e) => console.log(e ? 'no' : 'yes'))";
    const foreign = await net.must('a', process.execPath, ['-e', query]);
    expect([foreign.trim(), asked?.soFar()]).toEqual(['no', []]);
    const named = new Client(net, 'a', 'named');
    await named.enrol(invite, '--protect');
    await named.program?.says(/connected:/);
    expect(await reachesAll(net, INNER_FIRST, INNER_SECOND)).toBe(true);
    expect((await asked?.stop())?.length).toBeGreaterThan(0);
    expect(await net.must('a', 'nft', ['list', 'tables'])).not.toMatch(/query/);
    await named.program?.stop();
    await clients[1].program?.stop();
    expect(net.difference('a')).toEqual([]);
  });
});

test('a protected client whose profile has a mark of its own is let out by another one, and keeps it', async () => {
  await inNet(['server', 'a', 'other'], async (net) => {
    const { servers, clients } = await lay(net);
    const at = ['--endpoint', `${FIRST}:${PORT}`];
    const { profile } = await servers[0].json<{ profile: string }>(
      ...(['invite', 'marked', '--wireguard', ...at] as const),
    );
    const file = join(net.directory, 'marked.conf');
    writeFileSync(file, profile.replace('[Interface]', `[Interface]\nFwMark = ${OWN_MARK}`), {
      mode: 0o600,
    });
    const seen = `table inet t { chain c { type filter hook postrouting priority 0;
      udp dport ${PORT} ip daddr ${FIRST} meta mark ${OWN_MARK} counter comment "own"
      udp dport ${PORT} ip daddr ${FIRST} meta mark != ${OWN_MARK} counter comment "other"
    }
    }`;
    await net.must('a', 'nft', [seen]);
    clients[1].begin(`${SECOND}:${PORT}`, '--protect');
    await clients[1].program?.says(/connected:/);
    const marked = new Client(net, 'a', 'marked');
    marked.begin(file, '--protect');
    await marked.program?.says(/connected:/);
    expect(await reachesAll(net, INNER_FIRST, INNER_SECOND)).toBe(true);
    const counted = await net.must('a', 'nft', ['list', 'table', 'inet', 't']);
    expect(counted).toMatch(/packets [1-9]\d* bytes \d+ comment "own"/);
    expect(counted).toMatch(/packets 0 bytes 0 comment "other"/);
    await net.must('a', 'nft', ['delete', 'table', 'inet', 't']);
    await marked.program?.stop();
    await clients[1].program?.stop();
    expect(net.difference('a')).toEqual([]);
  });
});

test('a lockdown is put back after a reboot, and leads out again by unlock', async () => {
  await inNet(['server', 'a', 'other'], async (net) => {
    const { clients } = await lay(net);
    const [first, second] = clients;
    first.begin(`${FIRST}:${PORT}`, '--full', '--lockdown');
    await first.program?.says(/connected:/);
    const atFirst = await captureClear(net);
    expect((await first.command('unlock')).code).toBe(8);
    await first.program?.stop();
    const tables = () => net.must('a', 'nft', ['list', 'ruleset']);
    const before = await tables();
    expect(before).toMatch(/culvert-lockdown/);

    expectQuiet(atFirst, 'locked down');
    for (const capture of atFirst) await capture.stop();

    // All that a reboot does to a packet filter.
    await net.must('a', 'nft', ['flush', 'ruleset']);
    const { stdout } = await first.command('doctor');
    const { findings } = JSON.parse(stdout) as { findings: { check: string; result: string }[] };
    expect(findings).toContainEqual(expect.objectContaining({ check: 'lockdown', result: 'bad' }));
    expect((await first.command('status')).stderr).toMatch(/this host is open/);
    expect((await first.command('lock')).code).toBe(0);
    expect(await tables()).toBe(before);
    const captures = await captureClear(net);
    expect(await reachesAll(net, NOWHERE)).toBe(false);
    expectQuiet(captures, 'locked down again');
    // A tunnel leads out of it.
    second.begin(`${SECOND}:${PORT}`, '--full', '--protect');
    await second.program?.says(/connected:/);
    expect(await reachesAll(net, TARGET, INNER_SECOND)).toBe(true);
    await second.program?.stop();
    expectQuiet(captures, 'with another tunnel');
    for (const capture of captures) await capture.stop();

    const [node, args] = commandLine('client', ['unlock', ...first.instance.flags]);
    expect(await net.must('a', node, args)).toMatch(/removed: table inet culvert-lockdown/);
    expect((await first.command('lock')).stdout).toBe('{"restored":[]}\n');
    expect(net.difference('a')).toEqual([]);
  });
});

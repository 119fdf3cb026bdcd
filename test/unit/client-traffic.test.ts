/** How a client's traffic goes: numbers, rules, overlaps, protection, names looked up under it. */
import { expect, test } from 'vitest';
import { question, readAnswer } from '../../client/dns-message.ts';
import {
  chooseNumbers,
  fullTunnelChanges,
  ownAddressChanges,
  SEALED_MARK,
} from '../../client/full-tunnel.ts';
import { type HostView, OwnNameServers } from '../../client/host-view.ts';
import { findOverlap, overlapChanges } from '../../client/lan.ts';
import { familiesOf, guard } from '../../client/network-changes.ts';
import { Protection } from '../../client/protection.ts';
import {
  innerAlone,
  keptInLan,
  localRanges,
  type ProtectionFacts,
  protectionScript,
  queryScript,
} from '../../client/protection-rules.ts';
import { parseCidr } from '../../shared/cidr.ts';
import { VpnError } from '../../shared/errors.ts';
import type { Journal } from '../../shared/system/journal.ts';
import type { Run } from '../../shared/system/run.ts';

const FREE = { own: 0, priorities: new Set([0, 32_766, 32_767]), tables: new Set([255]) };
const NUMBERS = chooseNumbers(FREE, 7);
const network = (...addresses: string[]) => ({
  addresses,
  mtu: 1420,
  routes: [],
  serverAddress: null,
});

test('numbers are those nobody uses, and before the rules of others', () => {
  expect(NUMBERS).toEqual({
    ...{ mark: SEALED_MARK, table: 52_014, overlapTable: 52_015 },
    ...{ port: 10, own: null, answers: 32_762 },
    ...{ overlap: 32_763, local: 32_764, everything: 32_765 },
  });
  const taken = { ...FREE, tables: new Set([52_014, 52_017]) };
  expect(chooseNumbers(taken, 7).table).toBe(52_018);
  const busy = { ...FREE, priorities: new Set([0, 10, 5210, 5270, 32_766]) };
  expect(chooseNumbers(busy, 7)).toMatchObject({ port: 10, overlap: 5207, everything: 5209 });
  expect(chooseNumbers(FREE, 7, 99)).toMatchObject({ mark: 99, table: 52_014 });
});

test("the host's own addresses are found first, also where their rule was moved back", () => {
  const ownAt = (own: number | null, ...others: number[]) =>
    chooseNumbers({ ...FREE, own, priorities: new Set([...others, 32_766]) }, 7).own;
  expect([ownAt(0, 0), ownAt(null), ownAt(9, 9, 100)]).toEqual([null, null, null]);
  // Cilium; a VRF; a host that has none.
  expect([ownAt(100, 9, 100), ownAt(32_765, 1000, 32_765), ownAt(Infinity)]).toEqual([
    96, 996, 32_762,
  ]);
  const numbers = chooseNumbers({ ...FREE, own: 100, priorities: new Set([9, 100]) }, 7);
  expect(numbers).toMatchObject({ own: 96, overlap: 97, local: 98, everything: 99 });
  const lines = ownAddressChanges(numbers, [4, 6]).map(({ apply }) => apply.join(' '));
  expect(lines).toEqual([
    'ip -4 rule add priority 96 lookup local',
    'ip -6 rule add priority 96 lookup local',
  ]);
});

test('families: carried with an address, blocked without, IPv4 only left alone by IPv6 tunnels', () => {
  const both = network('10.0.0.2/24', 'fd00::2/64');
  expect(familiesOf(both, true)).toEqual({ carried: [4, 6], blocked: [] });
  expect(familiesOf(network('10.0.0.2/24'), true)).toEqual({ carried: [4], blocked: [6] });
  expect(familiesOf(network('fd00::2/64'), true)).toEqual({ carried: [6], blocked: [4] });
  expect(familiesOf(both, false)).toEqual({ carried: [], blocked: [] });
  expect(familiesOf({ ...both, defaults: [4] }, false)).toEqual({ carried: [4], blocked: [6] });
  expect(familiesOf({ ...both, defaults: [6] }, false)).toEqual({ carried: [6], blocked: [] });
});

test('the rules of a full tunnel, with and without local networks', () => {
  const wish = { device: 'cvc0', numbers: NUMBERS, carried: [4] as const, blocked: [6] as const };
  const lines = (lan: boolean) =>
    fullTunnelChanges({ ...wish, lan }).map(({ apply }) => apply.join(' '));
  expect(lines(true)).toEqual([
    'ip -4 route add default dev cvc0 scope global table 52014',
    'ip -4 rule add priority 32764 lookup main suppress_prefixlength 0',
    'ip -4 rule add priority 32765 not fwmark 12373 lookup 52014',
    'ip -6 route add unreachable default table 52014',
    'ip -6 rule add priority 32764 lookup main suppress_prefixlength 0',
    'ip -6 rule add priority 32765 not fwmark 12373 lookup 52014',
  ]);
  expect(lines(false).join()).not.toMatch(/suppress/);
  const near = { ...wish, lan: false, neighbours: ['10.0.1.1'] };
  const found = fullTunnelChanges(near).map(({ apply }) => apply.join(' '));
  expect(found.filter((line) => line.includes('main'))).toEqual([
    'ip -4 rule add priority 32764 to 10.0.1.1 lookup main',
  ]);
});

test('to neighbours that have to find this host goes nothing but what is ours', () => {
  const script = guard('cvc0', [], ['10.0.1.1'], 99).input!;
  expect(script).not.toContain('prerouting');
  expect(script).toContain('udp sport 68 udp dport 67 accept');
  const others = 'oifname != { "lo", "cvc0" } meta mark != { 12373, 99 }';
  expect(script).toContain(`${others} ip daddr { 10.0.1.1/32 } counter drop`);
  const { what, input } = guard('cvc0', ['10.8.0.2']);
  expect(what).toBe('packets for 10.8.0.2 only from cvc0');
  expect(input).not.toContain('postrouting');
});

test('no full tunnel swallows the sealed datagrams of another, whatever mark its profile has', () => {
  const wish = { device: 'cvc0', carried: [4] as const, blocked: [], lan: false };
  const rules = (mark: number) =>
    fullTunnelChanges({ ...wish, numbers: chooseNumbers(FREE, 7, mark) })
      .map(({ apply }) => apply.join(' '))
      .filter((line) => line.includes('rule'));
  expect(rules(0)).toEqual(['ip -4 rule add priority 32765 not fwmark 12373 lookup 52014']);
  expect(rules(99)).toEqual([
    'ip -4 rule add priority 32764 fwmark 12373 lookup main',
    'ip -4 rule add priority 32765 not fwmark 99 lookup 52014',
  ]);
});

const HOME: HostView = {
  networks: [{ device: 'eth0', range: parseCidr('192.168.1.50/24')! }],
  gateways: [{ device: 'eth0', address: '192.168.1.1' }],
  nameServers: ['192.168.1.3', '9.9.9.9'],
};

test('an overlap keeps gateway, name servers and the way to the server local', () => {
  const tunnel = { addresses: ['192.168.1.50/24'], routes: ['10.0.0.0/8', '192.168.1.64/26'] };
  const found = findOverlap(
    { ...tunnel, wanted: ['192.168.1.1'], endpoints: ['192.168.1.9', '198.51.100.1'] },
    HOME,
  );
  expect(found.ranges).toEqual(['192.168.1.0/24']);
  expect([...found.kept].sort()).toEqual(['192.168.1.1', '192.168.1.3', '192.168.1.9']);
  expect(found.clashes).toHaveLength(3);
  const lines = overlapChanges('cvc0', found, NUMBERS).map(({ apply }) => apply.join(' '));
  expect(lines.slice(-2)).toEqual([
    'ip -4 route add 192.168.1.0/24 dev cvc0 scope global table 52015',
    'ip -4 rule add priority 32763 to 192.168.1.0/24 lookup 52015',
  ]);
  expect(lines).toContain('ip -4 route add throw 192.168.1.1 table 52015');
});

test('an overlap leaves what comes from the address in the local network there', () => {
  const tunnel = { routes: [], wanted: [], endpoints: [] };
  const ruled = (address: string) =>
    overlapChanges('cvc0', findOverlap({ ...tunnel, addresses: [address] }, HOME), NUMBERS)
      .map(({ apply }) => apply.join(' '))
      .filter((line) => line.includes('from'));
  expect(ruled('192.168.1.7/24')).toEqual([
    'ip -4 rule add priority 32762 from 192.168.1.50 to 192.168.1.0/24 lookup main',
  ]);
  // The address inside is the same; the local network is smaller, and wins by itself.
  expect([...ruled('192.168.1.50/24'), ...ruled('192.168.7.2/16')]).toEqual([]);
});

test("the host's own name servers are known also while its resolver names the tunnel's", () => {
  let written = ['192.168.1.1', '192.168.1.3'];
  const own = new OwnNameServers(() => written);
  written = ['192.168.1.53'];
  expect(own.look(['192.168.1.53'])).toEqual(['192.168.1.1', '192.168.1.3']);
  expect(own.look(['192.168.1.53', '192.168.1.3'])).toEqual(['192.168.1.1']);
  // Another network, and the tunnel's again.
  written = ['192.168.1.53', '10.0.0.53'];
  expect(own.look(['192.168.1.53'])).toEqual(['10.0.0.53']);
  written = ['192.168.1.53'];
  expect(own.look(['192.168.1.53'])).toEqual(['10.0.0.53']);
});

test('what the host lives on and cannot reach any more is named', () => {
  const tunnel = { addresses: ['192.168.1.3/24'], routes: [], wanted: [], endpoints: [] };
  expect(findOverlap(tunnel, HOME).clashes).toContain(
    '192.168.1.3 is not reached: it is a name server of this host, and our own address',
  );
  // The kernel asks for own addresses before all routes, whatever the size of their network.
  const wide = { ...tunnel, addresses: ['192.168.1.1/16'] };
  expect(findOverlap(wide, HOME).taken).toEqual([
    { address: '192.168.1.1', is: 'the gateway of eth0' },
  ]);
});

test('a tunnel wider than the local network needs nothing but its server', () => {
  const tunnel = { addresses: ['192.168.7.2/16'], routes: [], endpoints: [] };
  expect(findOverlap({ ...tunnel, wanted: ['192.168.0.1'] }, HOME).ranges).toEqual([]);
  expect(findOverlap({ ...tunnel, wanted: ['192.168.1.77'] }, HOME).ranges).toEqual([
    '192.168.1.77/32',
  ]);
});

test('a tunnel around its own server leaves it outside, and smaller local networks', () => {
  const tunnel = { addresses: ['192.168.7.2/16'], routes: ['0.0.0.0/1'], wanted: [] };
  const outside = findOverlap({ ...tunnel, endpoints: ['198.51.100.1'] }, HOME);
  expect(outside.ranges).toEqual([]);
  const found = findOverlap({ ...tunnel, endpoints: ['192.168.9.9', '100.64.0.1'] }, HOME);
  expect(found).toMatchObject({ ranges: ['192.168.0.0/16', '0.0.0.0/1'] });
  expect(found.clashes[0]).toMatch(/192\.168\.0\.0\/16 .* outer address 192\.168\.9\.9,/);
  const lines = overlapChanges('cvc0', found, NUMBERS).map(({ apply }) => apply.join(' '));
  for (const stays of ['192.168.9.9', '100.64.0.1', '192.168.1.0/24']) {
    expect(lines).toContain(`ip -4 route add throw ${stays} table 52015`);
  }
  expect(lines).toContain('ip -4 rule add priority 32763 to 0.0.0.0/1 lookup 52015');
});

test('an address that the host has elsewhere, too, is not guarded', () => {
  expect(innerAlone(['192.168.1.50', '192.168.1.51', 'fd00::2'], HOME)).toEqual([
    ...['192.168.1.51', 'fd00::2'],
  ]);
});

const FACTS: ProtectionFacts = {
  device: 'cvc0',
  ownMark: null,
  addresses: ['10.8.0.2'],
  ranges: ['10.8.0.0/24', '10.0.0.0/8'],
  names: false,
  lan: ['192.168.1.0/24', '169.254.0.0/16'],
  kept: [],
};

test('rules that somebody else removed or changed come back, but not after the end', async () => {
  const tables = new Map<string, string[]>();
  let packets = 0;
  const applied: string[] = [];
  const nft: Run = async (_, args, options) => {
    const script = options?.input?.toString();
    if (args.includes('tables')) {
      const nftables = [...tables.keys()].map((name) => ({ table: { family: 'inet', name } }));
      return { stdout: JSON.stringify({ nftables }), stderr: '' };
    }
    if (args.includes('table')) {
      const rules = tables.get(args.at(-1)!);
      if (rules === undefined) throw new VpnError('COMMAND_FAILED', 'nft: no', { cause: {} });
      const counter = { packets: packets++, bytes: 0 };
      const nftables = rules.map((text) => ({ rule: { expr: [{ counter }, { text }] } }));
      return { stdout: JSON.stringify({ nftables }), stderr: '' };
    }
    if (script === undefined) return { stdout: '', stderr: '' };
    tables.set(/table inet (\S+)/.exec(script)![1]!, script.split('\n'));
    applied.push(script);
    return { stdout: '', stderr: '' };
  };
  const journal = { has: () => true } as Partial<Journal> as Journal;
  const options = { device: 'cvc0', journal, run: nft, lan: false, lockdowns: null };
  const protection = new Protection(options);
  await protection.begin();
  expect(await protection.keep()).toBe(false);
  const rules = () => [...tables.values()][0]!;
  for (const change of [
    () => tables.clear(),
    () => rules().splice(5),
    () => rules().push('accept'),
  ]) {
    applied.splice(1);
    change();
    expect(await protection.keep()).toBe(true);
    expect(applied).toEqual([applied[0], applied[0]]);
    expect(await protection.keep()).toBe(false);
  }
  tables.clear();
  await protection.end(false);
  expect(await protection.keep()).toBe(false);
  expect(tables.size).toBe(0);
});

test('protection lets out what is sealed, whoever sealed it, and closes with a reject', () => {
  const outgoing = (facts: Partial<ProtectionFacts>) =>
    /chain outgoing \{\n([^}]*?)\n {2}\}/s
      .exec(protectionScript('t', { ...FACTS, ...facts }).replaceAll(/\{ ([^}]*) \}/g, '<$1>'))![1]!
      .split('\n')
      .map((line) => line.trim());
  expect(outgoing({})).toContain('oifgroup 12373 accept');
  expect(outgoing({})).toContain('meta mark 12373 meta l4proto udp accept');
  expect(outgoing({}).join('\n')).not.toMatch(/cvc0/);
  expect(outgoing({}).at(-1)).toBe('counter reject with icmpx type admin-prohibited');
  expect(outgoing({})).toContain(
    'ip daddr <10.0.0.0/8> counter reject with icmpx type admin-prohibited',
  );
  const closed = outgoing({ lan: null });
  expect(closed.join('\n')).not.toMatch(/192\.168/);
  // What the underlay cannot do without: neighbours, and that a switch passes on their questions.
  for (const rule of [/nd-neighbor-advert> ip6 hoplimit 255/, /mld2-\S+> ip6 hoplimit 1 accept/]) {
    expect(closed.findIndex((line) => rule.test(line))).toBeGreaterThan(-1);
  }
  // What stands inside does not move out to a network that claims its other end.
  const own = outgoing({ addresses: ['192.168.1.2', 'fd00::2'] });
  const sources = ['ip saddr <192.168.1.2/32>', 'ip6 saddr <fd00::2/128>'].map(
    (source) => `${source} counter reject with icmpx type admin-prohibited`,
  );
  expect(own).toEqual(expect.arrayContaining(sources));
  const firstAccept = own.findIndex((line) => /daddr.* accept$/.test(line));
  expect(own.indexOf(sources[1]!)).toBeLessThan(firstAccept);
  expect(own.indexOf(sources[0]!)).toBeGreaterThan(own.indexOf('oifgroup 12373 accept'));
  // Before the local networks, and after our own look-ups and the tunnels.
  const questions = 'meta l4proto <tcp, udp> th dport <53, 853> counter reject';
  expect(outgoing({}).join('\n')).not.toContain('dport <53');
  const all = outgoing({ names: true, kept: ['10.0.0.1'] });
  const at = all.findIndex((line) => line.startsWith(questions));
  expect(at).toBeGreaterThan(all.indexOf('meta mark 12373 meta l4proto udp accept'));
  expect(at).toBeLessThan(all.findIndex((line) => line.includes('192.168.1.0/24')));
  expect(at).toBeLessThan(all.findIndex((line) => line.includes('10.0.0.1/32')));
});

test('datagrams with the mark of a profile have that of all clients before every protection, and theirs after', () => {
  const script = protectionScript('t', { ...FACTS, ownMark: { mark: 99, port: 4242 } });
  const chains = script.split('  chain ').slice(1);
  const rule = (from: number, to: number) =>
    `meta mark ${from} udp sport 4242 meta mark set ${to}\n`;
  expect(chains[0]).toContain(`hook output priority -1; policy accept;\n    ${rule(99, 12_373)}`);
  expect(chains[1]).toContain(`hook output priority 1; policy accept;\n    ${rule(12_373, 99)}`);
  expect(chains[2]).toMatch(/^outgoing .*hook output priority 0;/s);
  expect(chains.slice(2).join('')).not.toContain('99');
});

test('what the host lives on in its local network is let out before the ranges of the tunnel', () => {
  const lan = localRanges(HOME);
  const kept = keptInLan(HOME, lan, []);
  expect(kept).toEqual(['192.168.1.1', '192.168.1.3']);
  expect(keptInLan(HOME, lan, ['192.168.1.1'])).toEqual(['192.168.1.3']);
  expect(keptInLan(HOME, [], [])).toEqual([]);
  const script = protectionScript('t', { ...FACTS, ranges: ['192.168.1.0/24'], lan, kept });
  for (const name of ['outgoing', 'forwarded']) {
    const [open, closed] = ['192.168.1.1/32, 192.168.1.3/32 } accept', '192.168.1.0/24 } counter'];
    const rules = script.split(`chain ${name}`)[1]!;
    expect(rules).toContain(open);
    expect(rules.indexOf(open)).toBeLessThan(rules.indexOf(closed));
  }
});

test('a look-up has the mark of what is sealed, for its port and its name servers alone', () => {
  const script = queryScript('t', { port: 5353, nameServers: ['9.9.9.9', '2001:db8::1'] });
  expect(script).toContain('elements = { 5353 timeout 30s }');
  expect(script).toContain('hook output priority -1');
  const before = 'udp sport @ports udp dport 53';
  expect(script).toContain(`${before} ip daddr { 9.9.9.9/32 } meta mark set 12373`);
  expect(script).toContain(`${before} ip6 daddr { 2001:db8::1/128 } meta mark set 12373`);
});

test('only local networks for private use may be reached', () => {
  const range = (text: string) => ({ device: 'eth0', range: parseCidr(text)! });
  const networks = ['192.168.1.50/24', '203.0.113.7/24', 'fd00::7/64', '2001:db8::7/64'].map(range);
  expect(localRanges({ ...HOME, networks })).toEqual(['192.168.1.0/24', 'fd00::/64']);
});

test('answers of name servers are read, and only those to the question', () => {
  const asked = question(0x1234, 28, 'Vpn.example.');
  const head = Buffer.from(asked.subarray(0, 12));
  head.writeUInt16BE(0x8180, 2);
  head.writeUInt16BE(2, 6);
  const alias = [0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12];
  const six = [
    0xc0,
    12,
    0,
    28,
    0,
    1,
    0,
    0,
    0,
    9,
    0,
    16,
    0x20,
    1,
    0xd,
    0xb8,
    ...Array(11).fill(0),
    7,
  ];
  const answer = Buffer.concat([head, asked.subarray(12), Buffer.from([...alias, ...six])]);
  const found = readAnswer(answer, 0x1234, 'vpn.example');
  expect(found).toEqual(['2001:0db8:0000:0000:0000:0000:0000:0007']);
  expect(readAnswer(answer, 0x1235, 'vpn.example')).toBeNull();
  expect(readAnswer(answer, 0x1234, 'vpn.example.org')).toBeNull();
  expect(readAnswer(asked, 0x1234, 'vpn.example')).toBeNull();
  for (let end = 0; end < answer.length; end++) {
    expect(readAnswer(answer.subarray(0, end), 0x1234, 'vpn.example') ?? []).toEqual([]);
  }
  answer.writeUInt16BE(0x8183, 2);
  expect(readAnswer(answer, 0x1234, 'vpn.example')).toBe('missing');
});

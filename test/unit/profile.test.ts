/** Profiles: what wg-quick accepts, our extras, and errors that name the line. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  generatePresharedKey,
  generatePrivateKey,
  keyToBase64,
  publicKeyOf,
} from '../../keys/keypair.ts';
import { VpnError } from '../../shared/errors.ts';
import { formatProfile, hostPortFault, parseHostPort, parseProfile } from '../../shared/profile.ts';

const own = generatePrivateKey();
const server = publicKeyOf(generatePrivateKey());
const psk = generatePresharedKey();
const PEER = `[Peer]\nPublicKey = ${keyToBase64(server)}\n`;

function complaint(text: string): VpnError {
  try {
    parseProfile(text, 'x.conf');
  } catch (error) {
    if (error instanceof VpnError) return error;
    throw error;
  }
  throw new Error('it was accepted');
}

test('everything in a usual profile is read', () => {
  const profile = parseProfile(
    `# office
# culvert: name = laptop
[interface]
privatekey=${keyToBase64(own)}
ADDRESS = 10.0.0.2/24, fd00::2/64   # two
Address = 10.0.1.2
DNS = 10.0.0.1, corp.example, fd00::1
MTU = 1380
ListenPort = 6000
FwMark = 0x20
Table = 77
SaveConfig = true
PostUp = iptables -A INPUT

[PEER]
PublicKey = ${keyToBase64(server)}
PresharedKey = ${keyToBase64(psk)}
AllowedIPs = 10.0.0.0/24
AllowedIPs = fd00::/64, 10.9.9.9
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25
`,
    'x.conf',
  );
  expect(profile).toEqual({
    privateKey: own,
    addresses: ['10.0.0.2/24', 'fd00::2/64', '10.0.1.2/32'],
    dns: ['10.0.0.1', 'fd00::1'],
    domains: ['corp.example'],
    mtu: 1380,
    listenPort: 6000,
    fwmark: 0x20,
    table: 77,
    extras: { name: 'laptop' },
    warnings: [
      'x.conf:12: SaveConfig is ignored: the file is never written',
      'x.conf:13: PostUp is ignored: hooks are never run',
    ],
    peers: [
      {
        publicKey: server,
        presharedKey: psk,
        allowedIps: ['10.0.0.0/24', 'fd00::/64', '10.9.9.9/32'],
        endpoint: { host: '2001:db8::1', port: 51820 },
        persistentKeepalive: 25,
      },
    ],
  });
});

test('words that switch off, line ends of Windows, several peers, one of them twice', () => {
  const other = publicKeyOf(generatePrivateKey());
  const text = `[Interface]\r\nFwMark = off\r\nTable = off\r\n${PEER}AllowedIPs =\nPersistentKeepalive = off\n[Peer]\nPublicKey=${keyToBase64(other)}\n${PEER}Endpoint = vpn.example:1\n`;
  const profile = parseProfile(text, 'x.conf');
  expect([profile.fwmark, profile.table]).toEqual([0, 'off']);
  expect(profile.peers.map((p) => [p.publicKey, p.endpoint?.host])).toEqual([
    [server, 'vpn.example'],
    [other, undefined],
  ]);
});

test.each([
  ['[Interface]\nAdress = 10.0.0.1/24\n', /^x\.conf:2: unknown key Adress.*Address\?$/],
  ['[Peer]\nPublicKye = x\n', /^x\.conf:2: .*PublicKey\?$/],
  ['[Interface]\nEndpoint = a:1\n', /^x\.conf:2: unknown key Endpoint in \[Interface\]/],
  ['MTU = 1400\n', /^x\.conf:1: MTU stands before the first section/],
  ['[Interface]\n\nMTU\n', /^x\.conf:3: "MTU" is neither/],
  ['[Interface]\nMTU =\n', /^x\.conf:2: MTU has no value/],
  ['[Interface]\nMTU = 70000\n', /^x\.conf:2: MTU "70000" is not a number from 576 to 65535/],
  ['[Interface]\nAddress = 10.0.0.1/33\n', /^x\.conf:2: Address .*10\.0\.0\.1\/33/],
  [`[Interface]\n${PEER}Endpoint = nowhere\n`, /^x\.conf:4: Endpoint "nowhere" is not HOST:PORT/],
  [
    '[Interface]\n\n[Peer]\nAllowedIPs = 10.0.0.0/8\n',
    /^x\.conf:3: this \[Peer\] has no PublicKey/,
  ],
])('%j is refused', (text, message) => {
  const error = complaint(text);
  expect([error.code, error.exitCode]).toEqual(['PROFILE_INVALID', 5]);
  expect(error.message).toMatch(message);
});

test('a malformed key is refused and not shown', () => {
  const almost = keyToBase64(own).slice(1);
  for (const text of [
    `[Interface]\nPrivateKey = ${almost}\n`,
    `${PEER}PresharedKey = ${almost}\n`,
  ]) {
    const error = complaint(text);
    expect(error.code).toBe('KEY_MALFORMED');
    expect(error.message).toMatch(/^x\.conf:[23]: /);
    expect(error.message + error.hint).not.toContain(almost);
  }
});

test('what is formatted reads back as it was', () => {
  const profile = {
    privateKey: own,
    addresses: ['10.0.0.2/24'],
    dns: ['10.0.0.1'],
    domains: ['corp.example'],
    mtu: 1380,
    listenPort: 6000,
    fwmark: 7,
    table: 'off',
    extras: { name: 'laptop' },
    peers: [
      {
        publicKey: server,
        presharedKey: psk,
        allowedIps: ['10.0.0.0/24'],
        endpoint: { host: 'fd00::1', port: 6000 },
        persistentKeepalive: 25,
      },
    ],
  } as const;
  expect(parseProfile(formatProfile(profile), 'x')).toEqual({ ...profile, warnings: [] });
});

// wg-quick makes itself root first.
test.runIf(process.getuid?.() === 0)(
  "wg-quick's own parser takes our text and leaves what wg needs",
  () => {
    const folder = mkdtempSync(join(tmpdir(), `culvert-c1-${process.pid}-`));
    try {
      const file = join(folder, 'cvt0.conf');
      const peers = [{ publicKey: server, allowedIps: ['10.0.0.0/24'], persistentKeepalive: 0 }];
      const text = formatProfile({ privateKey: own, addresses: ['10.0.0.2/24'], mtu: 1400, peers });
      writeFileSync(file, text, { mode: 0o600 });
      const stripped = execFileSync('wg-quick', ['strip', file], { encoding: 'utf8' });
      expect(stripped).toContain(`PrivateKey = ${keyToBase64(own)}`);
      expect(stripped).toContain('AllowedIPs = 10.0.0.0/24');
      expect(stripped).not.toMatch(/Address|MTU/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);

test.each([
  ['vpn.example:6000', { host: 'vpn.example', port: 6000 }],
  ['10.0.0.1:1', { host: '10.0.0.1', port: 1 }],
  ['[fe80::1%eth0]:65535', { host: 'fe80::1%eth0', port: 65535 }],
  ['10.0.0.256:1', null],
  ['fd00::1:6000', null],
  ['[10.0.0.1]:6000', null],
  ['vpn.example', null],
  ['vpn.example:0', null],
  ['vpn.example:65536', null],
  ['-x.example:1', null],
  ['a b:1', null],
  ['../x:1', null],
  ['Bücher.example:6000', { host: 'xn--bcher-kva.example', port: 6000 }],
  ['例え.テスト:6000', { host: 'xn--r8jz45g.xn--zckzah', port: 6000 }],
  ['bü cher.example:6000', null],
  ['bücher.example#x:6000', null],
  ['bücher/x.example:6000', null],
  ['b%75ü.example:6000', null],
  [`${'ü'.repeat(64)}.example:6000`, null],
])('%s as HOST:PORT', (text, expected) => {
  expect(parseHostPort(text)).toEqual(expected);
});

test.each([
  ['vpn.example', 'is not HOST:PORT'],
  ['vpn.example:65536', 'has no port from 1 to 65535'],
  ['fd00::1:6000', 'has no IPv6 address in brackets'],
  ['10.0.0.256:1', 'has no valid IPv4 address'],
  ['bü cher.example:6000', 'has no valid host name'],
])('%s is no HOST:PORT: it %s', (text, why) => {
  expect(hostPortFault(text)).toContain(why);
});

test.each(['127.0.0.1', '0.0.0.0', '239.1.2.3', '255.255.255.255', '::1', '::', 'ff02::fb'])(
  'DNS = %s is refused by line and address',
  (address) => {
    const text = `[Interface]\nAddress = 10.0.0.2/24\nDNS = 10.0.0.1, ${address}\n`;
    expect(() => parseProfile(text, 'p')).toThrow(
      `p:3: DNS "${address}" is no name server that a tunnel leads to`,
    );
  },
);

test('search domains in other scripts become what name servers know', () => {
  const profile = parseProfile('[Interface]\nDNS = 10.0.0.1, bücher.example, corp\n', 'p');
  expect(profile.domains).toEqual(['xn--bcher-kva.example', 'corp']);
  // The last one would come out as 10.0.0.3.
  for (const none of ['corp\ufffd', 'ex ämple', '１０.3']) {
    const text = `[Interface]\nDNS = 10.0.0.1, ${none}\n`;
    expect(() => parseProfile(text, 'p')).toThrow(
      `p:2: DNS "${none}" is neither an address nor a domain`,
    );
  }
});

test('a bad range is named once, and alone', () => {
  const text = `[Interface]\n[Peer]\nAllowedIPs = 10.0.0.0/8, 10.0.0/33\n`;
  expect(() => parseProfile(text, 'p')).toThrow('p:3: AllowedIPs "10.0.0/33" is no address range');
});

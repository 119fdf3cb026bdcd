/** wg-quick files: from people, providers and other programs. */
import { formatProfile, type Profile, parseProfile } from '../../../shared/profile.ts';
import {
  attempt,
  bytesOf,
  type FuzzTarget,
  require,
  requireEqual,
  requireNoKey,
} from '../target.ts';

const KEY = 'yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=';
const PEER = 'xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=';

const SEEDS = [
  `[Interface]\nPrivateKey = ${KEY}\nAddress = 10.0.0.2/24, fd00::2/64\nDNS = 10.0.0.1, corp.example\n` +
    'MTU = 1420\nListenPort = 51820\nFwMark = 0xca6c\nTable = off\nPostUp = iptables -A x\n\n' +
    `[Peer]\nPublicKey = ${PEER}\nPresharedKey = ${KEY}\nAllowedIPs = 0.0.0.0/0, ::/0\n` +
    'Endpoint = [2001:db8::1]:51820\nPersistentKeepalive = 25\n',
  `# culvert: name = laptop\r\n[interface]\r\nprivatekey=${KEY}\r\nTable=auto\r\nSaveConfig=true\r\n`,
  `[Interface]\nPrivateKey ${KEY}\n`,
  `[Peer]\nPublicKey=${PEER}\nAllowedIPs=\nPersistentKeepalive=off\nEndpoint=vpn.example.org:1\n` +
    `[Peer]\nPublicKey=${PEER}\n[Interface]\nFwMark=off\n`,
  '[Interface]\nAdress = 10.0.0.2\n',
];

/** What a text cannot tell apart: 0 is the same as nothing. */
function plain(profile: Profile): unknown {
  const { warnings, fwmark, extras, table, ...rest } = profile;
  return [rest, fwmark ?? 0, table ?? 'auto', Object.entries(extras)].map(sorted);
}

/** The same values with the names in order. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== 'object' || ArrayBuffer.isView(value)) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return entries.map(([name, inner]) => [name, sorted(inner)]);
}

export const profile: FuzzTarget = {
  name: 'profile',
  seeds: SEEDS.map(bytesOf),
  words: [
    ...[
      '[Interface]\n',
      '[Peer]\n',
      'PrivateKey = ',
      'Address = ',
      'DNS = ',
      'MTU = ',
      '\n',
      ' = ',
    ],
    ...[
      'ListenPort = ',
      'FwMark = ',
      'Table = ',
      'PublicKey = ',
      'PresharedKey = ',
      'AllowedIPs =',
    ],
    ...[
      'Endpoint = ',
      'PersistentKeepalive = ',
      '# culvert: ',
      'PostUp = ',
      KEY,
      PEER,
      '\r\n',
      '#',
    ],
    ...['10.0.0.1/32', 'fe80::1%eth0', '::/0', ', ', 'a.b:1', '[::1]:1', 'off', 'auto', '0x'],
  ],
  run(input) {
    const text = Buffer.from(input).toString('utf8');
    const codes = ['PROFILE_INVALID', 'KEY_MALFORMED'] as const;
    const read = attempt(text, codes, () => parseProfile(text, 'x.conf'));
    if ('failure' in read) return [read.failure];
    const found = read.value;
    for (const warning of found.warnings) requireNoKey(text, warning);
    for (const key of [found.privateKey, ...found.peers.map((peer) => peer.publicKey)]) {
      require(key === undefined || key.length === 32, 'key length');
    }
    const written = formatProfile(found);
    const again = parseProfile(written, 'y.conf');
    requireEqual(plain(again), plain(found), 'written and read again');
    requireEqual(formatProfile(again), written, 'written twice');
    require(again.warnings.length === 0, 'our own file has warnings');
    const { peers, extras, ...rest } = found;
    const filled = Object.entries(rest).filter(([, value]) => String(value) !== '');
    return [
      ...filled.map(([name]) => name),
      ...peers.slice(0, 9).flatMap(Object.keys),
      ...[
        `${Math.min(peers.length, 4)} peers`,
        `${Math.min(Object.keys(extras).length, 4)} extras`,
      ],
    ];
  },
};

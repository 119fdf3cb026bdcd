/** server.yaml, and the same settings from the environment. */
import {
  environmentName,
  FILE_KEYS,
  resolveConfiguration,
  SETTING_NAMES,
  type ServerConfiguration,
} from '../../../server/configuration.ts';
import { parseConfiguration } from '../../../server/configuration-file.ts';
import { contains, lastAddress } from '../../../server/ipv4.ts';
import { attempt, bytesOf, type FuzzTarget, require, requireEqual } from '../target.ts';

const SEEDS = [
  'listen: 6000\nendpoint: vpn.example.org:6000\nnetwork: 10.9.0.0/16\naddress: 10.9.0.1\n' +
    'pool:\n  start: 10.9.1.0\n  end: 10.9.2.255\nclientToClient: off\nmaxClients: 100\n',
  'push:\n  routes: [10.0.0.0/8, fd00::/8]\n  dns:\n    - 10.9.0.1\n  domains: example.org\n' +
    '  mtu: 1400\n  keepalive: 0x19\n  full: yes\nnat: auto\n',
  'mtu: 1380\nfwmark: 0xca6c\nlog: debug\nworkers: 2\naead: openssl\noffload: {tunTcp: false}\n',
  'pool: {start: 192.168.1.9, end: 192.168.1.2}\n',
  'netwrk: 10.0.0.0/8\n',
  'push: {routes: &a [1, 2], dns: *a}\n',
  '%YAML 1.1\n---\nlog: !!binary aGk=\n',
  `mtu: ,${'k[ s: *or'.repeat(3500)}\n`,
];

/** What no configuration may get wrong, wherever it came from. */
function check(c: ServerConfiguration): void {
  require(contains(c.network, c.address), 'the address is outside the network');
  require(c.address !== c.network.base && c.address !== lastAddress(c.network), 'no host address');
  for (const address of [c.pool.start, c.pool.end]) {
    require(address === undefined || contains(c.network, address), 'the pool is outside');
  }
  require(c.mtu >= 1280 && c.mtu <= 65_455, `mtu ${c.mtu}`);
  require(c.listen.port >= 1 && c.listen.port <= 65_535, `port ${c.listen.port}`);
  require(c.endpoints.length <= 8 && c.push.routes.length <= 256, 'a list over its bound');
  require(typeof c.push.full === 'boolean' && typeof c.offloads.udpGro === 'boolean', 'a flag');
  for (const text of [...c.endpoints, ...c.push.routes, ...c.push.dns, ...c.push.domains]) {
    require(/^[\x21-\x7e]+$/.test(text), `a list holds ${JSON.stringify(text)}`);
  }
}

export const configuration: FuzzTarget = {
  name: 'configuration',
  seeds: SEEDS.map(bytesOf),
  words: [
    ...FILE_KEYS.map((name) => `${name.split('.').at(-1)}: `),
    ...['groups:\n  a:\n    ', 'peers:\n  b:\n    '],
    ...[
      'push:\n  ',
      'pool: {',
      'offload:\n  ',
      '- ',
      '[',
      ']',
      '{',
      '}',
      ', ',
      ': ',
      '? ',
      '&a ',
      '*a',
    ],
    ...[
      '!!int ',
      '!!binary ',
      '!!set ',
      '!x ',
      '<<: ',
      '| \n ',
      '>-\n ',
      '"',
      "'",
      '---\n',
      '...\n',
    ],
    ...[
      '%YAML 1.1\n---\n',
      '%TAG ! a\n',
      '~',
      'null',
      '.nan',
      '.inf',
      '1_000',
      '2001-01-01',
      '0o17',
    ],
    ...['192.168.1.0/24', '10.0.0.1', 'fd00::/8', '\t', '# '],
  ],
  run(input) {
    const text = Buffer.from(input).toString('utf8');
    const read = attempt(text, ['CONFIG_INVALID'], () => {
      const file = parseConfiguration(text, 'server.yaml', FILE_KEYS);
      return { file, resolved: resolveConfiguration({ flags: {}, environment: {}, file }) };
    });
    if ('failure' in read) {
      require(/^server\.yaml:\d+:\d+ /.test(read.message), 'an error names no place');
      return [read.failure];
    }
    const { file, resolved } = read.value;
    check(resolved);
    // As text in the environment, single values mean what they mean in the file.
    const names = file.settings.map(({ path }) => path.join('.'));
    const single = file.settings.filter(
      ({ path, value }) =>
        /^(string|number|boolean)$/.test(typeof value) &&
        SETTING_NAMES.includes(path.join('.') as never),
    );
    const environment = Object.fromEntries(
      single.map(({ path, value }) => [environmentName(path.join('.') as never), String(value)]),
    );
    if (single.length === names.length && !Object.values(environment).includes('')) {
      requireEqual(
        { ...resolveConfiguration({ flags: {}, environment, file: null }), origins: null },
        { ...resolved, origins: null },
        'file and environment',
      );
    }
    return [...names, `${single.length === names.length}`];
  },
};

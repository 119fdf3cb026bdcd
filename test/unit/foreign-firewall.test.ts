/** Foreign firewalls, as `nft -j list ruleset` shows them, and the way through them. */
import { describe, expect, test } from 'vitest';
import { findLegacyObstacle, findObstacles, type Way } from '../../server/foreign-firewall.ts';
import { type NftStatement, parseRuleset } from '../../shared/system/nft.ts';

const WAY: Way = { device: 'cvs1', family: 'ip', outside: 'eth0' };

interface Base {
  readonly family?: string;
  readonly table?: string;
  readonly chain?: string;
  readonly policy?: string;
  /** More chains of the table, with their rules. */
  readonly others?: Readonly<Record<string, readonly NftStatement[][]>>;
}

/** A ruleset with one chain at the forward hook. */
function ruleset(rules: readonly NftStatement[][], base: Base = {}) {
  const { family = 'ip', table = 'filter', chain = 'FORWARD', policy = 'drop', others = {} } = base;
  const ruleOf = (name: string) => (expr: NftStatement[]) => {
    return { rule: { family, table, chain: name, expr } };
  };
  const nftables = [
    { metainfo: { version: '1.0.6' } },
    { table: { family, name: table } },
    { chain: { family, table, name: chain, type: 'filter', hook: 'forward', prio: 0, policy } },
    ...Object.keys(others).map((name) => ({ chain: { family, table, name } })),
    ...rules.map(ruleOf(chain)),
    ...Object.entries(others).flatMap(([name, list]) => list.map(ruleOf(name))),
  ];
  return parseRuleset(JSON.stringify({ nftables }));
}

const is = (key: 'iifname' | 'oifname', right: unknown, op = '=='): NftStatement => ({
  match: { op, left: { meta: { key } }, right },
});
const known: NftStatement = {
  match: { op: 'in', left: { ct: { key: 'state' } }, right: ['established', 'related'] },
};
const opaqueConntrack: NftStatement = { xt: { type: 'match', name: 'conntrack' } };
const counter: NftStatement = { counter: { packets: 0, bytes: 0 } };
const accept: NftStatement = { accept: null };
const jump = (target: string): NftStatement => ({ jump: { target } });

const found = (...args: Parameters<typeof ruleset>) => {
  return findObstacles(ruleset(...args), WAY, 'culvert-cvs1');
};

describe('a way through is seen', () => {
  test.each<[string, NftStatement[][], Base?]>([
    ['policy accept', [], { policy: 'accept' }],
    [
      'both directions by name',
      [
        [is('iifname', 'cvs1'), accept],
        [is('oifname', 'cvs1'), accept],
      ],
    ],
    [
      'answers by state',
      [
        [is('iifname', 'cvs1'), counter, accept],
        [known, accept],
      ],
    ],
    [
      'answers by the match of iptables',
      [
        [is('iifname', 'cvs1'), accept],
        [opaqueConntrack, accept],
      ],
    ],
    [
      'a wildcard',
      [
        [is('iifname', 'cvs*'), accept],
        [is('oifname', 'cvs*'), accept],
      ],
    ],
    [
      'a set',
      [
        [is('iifname', { set: ['cvs1', 'x'] }), accept],
        [known, accept],
      ],
    ],
    ['all but another', [[is('iifname', 'eth7', '!='), accept]]],
    [
      'behind a jump',
      [[counter, jump('mine')]],
      {
        others: {
          mine: [
            [is('iifname', 'cvs1'), accept],
            [known, accept],
          ],
        },
      },
    ],
    ['a drop for others', [[is('iifname', 'wlan0'), { drop: null }]], { policy: 'accept' }],
    [
      'a refusal of what is not known here',
      [[{ match: { op: '==', left: { meta: { key: 'l4proto' } }, right: 'tcp' } }, { drop: null }]],
      { policy: 'accept' },
    ],
  ])('%s', (_, rules, base) => {
    expect(found(rules, base)).toEqual([]);
  });

  test('in our own table and in the other family', () => {
    expect(found([], { table: 'culvert-cvs1' })).toEqual([]);
    expect(found([], { family: 'ip6' })).toEqual([]);
  });
});

describe('an obstacle is seen', () => {
  test.each<[string, NftStatement[][], Base?]>([
    ['policy drop', []],
    ['answers forgotten', [[is('iifname', 'cvs1'), accept]]],
    [
      'only another device',
      [
        [is('iifname', 'docker0'), accept],
        [known, accept],
      ],
    ],
    [
      'only some traffic',
      [
        [
          {
            match: { op: '==', left: { payload: { protocol: 'tcp', field: 'dport' } }, right: 443 },
          },
          accept,
        ],
      ],
    ],
    ['a last rule that rejects', [[{ reject: { type: 'icmpx' } }]], { policy: 'accept' }],
    [
      'a last rule that rejects, by iptables',
      [[{ xt: { type: 'target', name: 'REJECT' } }]],
      { policy: 'accept' },
    ],
    [
      'a return before the rule that accepts',
      [[jump('mine')]],
      { others: { mine: [[{ return: null }], [accept]] } },
    ],
    [
      'a verdict by state that drops',
      [[{ vmap: { key: { ct: { key: 'state' } }, data: { set: [['new', { drop: null }]] } } }]],
      { policy: 'accept' },
    ],
    [
      'chains that jump in a ring',
      [[jump('a')]],
      { others: { a: [[jump('b')]], b: [[jump('a')]] } },
    ],
  ])('%s', (_, rules, base) => {
    expect(found(rules, base)).toHaveLength(1);
  });

  test('between two clients only when the kernel relays', () => {
    const rules = ruleset([
      [is('iifname', 'cvs1'), is('oifname', 'eth0'), accept],
      [known, accept],
    ]);
    expect(findObstacles(rules, WAY, '')).toEqual([]);
    expect(findObstacles(rules, { ...WAY, outside: null }, '')).toHaveLength(1);
  });
});

describe('the fix is that of whoever made the rules', () => {
  test.each<[string, Base, string, RegExp]>([
    [
      'iptables',
      {},
      'table ip filter, chain FORWARD (iptables)',
      /^iptables -I FORWARD -i cvs1 -j/,
    ],
    [
      'Docker',
      { others: { 'DOCKER-USER': [] } },
      '(Docker)',
      /^iptables -I DOCKER-USER -i cvs1 -j/,
    ],
    ['ufw', { others: { 'ufw-user-forward': [] } }, '(ufw)', /^ufw route allow in on cvs1$/],
    ['firewalld', { family: 'inet', table: 'firewalld' }, '(firewalld)', /--add-interface=cvs1$/],
    [
      'plain nftables',
      { family: 'inet', table: 'mine', chain: 'through' },
      'table inet mine, chain through',
      /^nft insert rule inet mine through iifname "cvs1" accept$/,
    ],
  ])('%s', (_, base, where, fix) => {
    const [obstacle] = found([], base);
    expect(obstacle?.where).toContain(where);
    expect(obstacle?.fix[0]).toMatch(fix);
  });

  test('legacy iptables, which nft does not see', () => {
    const rules = '-P FORWARD DROP\n-A FORWARD -i docker0 -j ACCEPT\n';
    expect(findLegacyObstacle(rules, WAY)?.fix[0]).toBe(
      'iptables-legacy -I FORWARD -i cvs1 -j ACCEPT',
    );
    const open = `${rules}-A FORWARD -i cvs1 -j ACCEPT\n-A FORWARD -o cvs1 -m conntrack -j ACCEPT\n`;
    expect(findLegacyObstacle(open, WAY)).toBeNull();
    expect(findLegacyObstacle('-P FORWARD ACCEPT\n', WAY)).toBeNull();
  });
});

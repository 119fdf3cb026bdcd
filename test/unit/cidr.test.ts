/** Address ranges as text. */
import { expect, test } from 'vitest';
import {
  cidrText,
  contains,
  isPrivate,
  networkText,
  overlaps,
  parseCidr,
} from '../../shared/cidr.ts';

const range = (text: string) => parseCidr(text)!;

test.each([
  ['192.168.1.7/24', '192.168.1.0/24', '192.168.1.7/24'],
  ['10.0.0.1', '10.0.0.1/32', '10.0.0.1/32'],
  ['255.255.255.255/1', '128.0.0.0/1', '255.255.255.255/1'],
  ['0.0.0.0/0', '0.0.0.0/0', '0.0.0.0/0'],
  ['fd00::5/64', 'fd00::/64', 'fd00::5/64'],
  ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1/128', '2001:db8::1:0:0:1/128'],
  ['::ffff:1.2.3.4/128', '::ffff:102:304/128', '::ffff:102:304/128'],
  ['::/0', '::/0', '::/0'],
  ['1:0:3:0:5:0:7:0/128', '1:0:3:0:5:0:7:0/128', '1:0:3:0:5:0:7:0/128'],
])('%s is the network %s', (text, network, full) => {
  expect(networkText(range(text))).toBe(network);
  expect(cidrText(range(text))).toBe(full);
});

test.each([
  '',
  'home',
  '1.2.3',
  '1.2.3.4/33',
  '1.2.3.4/',
  '1.2.3.4/-1',
  '1.2.3.4/8/8',
  '::/129',
  'fe80::1%eth0/64',
  '1.2.3.4/1e1',
])('%j is no range', (text) => expect(parseCidr(text)).toBeNull());

test('containment and overlap keep the families apart', () => {
  expect(contains(range('10.0.0.0/8'), range('10.255.0.1'))).toBe(true);
  expect(contains(range('10.0.0.0/8'), range('11.0.0.0/8'))).toBe(false);
  expect(contains(range('10.1.0.0/16'), range('10.0.0.0/8'))).toBe(false);
  expect(contains(range('0.0.0.0/0'), range('::1'))).toBe(false);
  expect(overlaps(range('10.1.0.0/16'), range('10.0.0.0/8'))).toBe(true);
  expect(overlaps(range('10.1.0.0/16'), range('10.2.0.0/16'))).toBe(false);
});

test.each([
  ['192.168.1.0/24', true],
  ['172.31.255.255', true],
  ['172.32.0.0/16', false],
  ['100.64.0.1', true],
  ['10.0.0.0/7', false],
  ['8.8.8.8', false],
  ['fd12::1/48', true],
  ['2001:db8::/32', false],
])('%s is for private use: %s', (text, expected) => {
  expect(isPrivate(range(text))).toBe(expected);
});

/** What the kernel's messages about links, addresses, routes and rules are read as. */
import { expect, test } from 'vitest';
import { parseMonitorLine, watchNetwork } from '../../shared/system/netlink-watch.ts';

test('lines of ip monitor become coarse changes', () => {
  const lines = [
    '[LINK]3: eth0@if2: <BROADCAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP \\    link/ether',
    '[LINK]Deleted 7: cvc0: <POINTOPOINT> mtu 1420 qdisc noop state DOWN group default ',
    '[ADDR]3: eth0    inet 10.0.0.2/24 scope global eth0\\       valid_lft forever',
    '[ADDR]Deleted 3: eth0    inet6 fd00::2/64 scope global ',
    '[ROUTE]default via 10.0.0.1 dev eth0 ',
    '[ROUTE]Deleted 10.9.0.0/16 dev cvc0 scope link ',
    '[ROUTE]blackhole 10.8.0.0/16 ',
    '[RULE]100:\tfrom all iif eth0 lookup 7',
    '[RULE]Deleted 32763:\tnot from all fwmark 0x3055 lookup 52000',
  ];
  const read = lines.map((line) => {
    const change = parseMonitorLine(line);
    return change && `${change.kind} ${change.device} ${change.gone ? 'gone' : 'there'}`;
  });
  expect(read).toEqual([
    'link eth0 there',
    'link cvc0 gone',
    'address eth0 there',
    'address eth0 gone',
    'route eth0 there',
    'route cvc0 gone',
    'route null there',
    'rule null there',
    'rule null gone',
  ]);
  expect(parseMonitorLine('[NEIGH]10.0.0.1 dev eth0 lladdr 02:00:00:00:00:01')).toBeNull();
  expect(parseMonitorLine('')).toBeNull();
});

test('a closed watch says nothing and leaves no child', async () => {
  const watch = watchNetwork(() => {
    throw new Error('a closed watch spoke');
  });
  watch.close();
  watch.close();
});

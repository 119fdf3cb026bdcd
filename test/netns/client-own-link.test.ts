/**
 * Other programs change the link of a tunnel: its MTU, its group, its name, or they set it down. It
 * is as it was within moments, and what goes through it goes on.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server, tun 192.168.1.1, lo 10.200.0.1
 */
import { expect, test } from 'vitest';
import { inNet, type Net } from './harness.ts';
import { layStar } from './topology.ts';
import { Client, Server } from './vpn.ts';
import { eventually } from './waiting.ts';

const TARGET = '10.200.0.1';

function linkText(net: Net): string {
  const text = net.ip('a', '-details', 'link', 'show', 'type', 'tun');
  return text.replace(/ (qdisc|state|qlen) \S+/g, '');
}

test.each([
  ['a part of the traffic', []],
  ['a full tunnel under protection', ['--full', '--protect']],
])('%s: MTU, group, name and state of the link are put back', async (_, flags) => {
  await inNet(['server', 'a'], async (net) => {
    net.ip('server', 'address', 'add', `${TARGET}/32`, 'dev', 'lo');
    layStar(net, ['a']);
    const server = await new Server(net).start();
    const client = new Client(net, 'a');
    await client.enrol(await server.invite('a', 1), ...flags);
    await client.program?.says(/connected:/);
    const inside = flags.length > 0 ? TARGET : '192.168.1.1';
    const { name } = client.device()!;
    const before = linkText(net);
    const goesOn = async (what: string) => {
      await eventually(`as before: ${what}`, 8_000, () => linkText(net) === before);
      await eventually(`through again: ${what}`, 8_000, () => net.reaches('a', inside));
    };
    await goesOn('from the start');

    for (const [told, ...change] of [
      ['MTU 1300', 'mtu', '1300'],
      ['group 0', 'group', '0'],
      ['down', 'down'],
    ] as const) {
      net.ip('a', 'link', 'set', 'dev', name, ...change);
      expect(linkText(net)).not.toBe(before);
      await client.program?.says(new RegExp(`somebody changed ${name} \\(${told}\\)`), 8_000);
      await goesOn(told);
    }
    // Older kernels rename no link that is up.
    net.ip('a', 'link', 'set', 'dev', name, 'down');
    net.ip('a', 'link', 'set', 'dev', name, 'name', 'lan0');
    net.ip('a', 'link', 'set', 'dev', 'lan0', 'up');
    await client.program?.says(new RegExp(`somebody changed ${name} \\(named lan0`), 8_000);
    await goesOn('its name');

    expect((await client.command('status')).code).toBe(0);
    expect((await client.command('disconnect')).code).toBe(0);
    await client.program?.end();
    expect(net.difference('a')).toEqual([]);
  });
});

/** What the client takes for a change of the network beneath its tunnel. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Underlay } from '../../client/underlay.ts';
import type { NetworkChange } from '../../shared/system/netlink-watch.ts';

let change: (change: NetworkChange) => void;
let route: { dev: string; prefsrc: string; gateway?: string } | null;
let heard: string[];
let underlay: Underlay;

beforeEach(async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  heard = [];
  route = { dev: 'eth0', prefsrc: '10.0.0.2', gateway: '10.0.0.1' };
  underlay = new Underlay({
    run: async () => ({ stdout: JSON.stringify(route ? [route] : []), stderr: '' }),
    device: () => 'cvc0',
    server: () => '192.0.2.2',
    mark: () => 0,
    onWay: (way, text) => heard.push(`${way}: ${text}`),
    onDisturbed: () => heard.push('disturbed'),
  });
  underlay.start((onChange) => {
    change = onChange;
    return { close: () => {} };
  });
  await underlay.remember();
});
afterEach(() => {
  underlay.close();
  vi.useRealTimers();
});

const on = (device: string, gone = false): NetworkChange => ({ kind: 'address', device, gone });

test('a burst of changes is one look, and the same way as before is no news', async () => {
  for (let i = 0; i < 5; i++) change(on('eth0'));
  await vi.advanceTimersByTimeAsync(299);
  expect(heard).toEqual([]);
  await vi.advanceTimersByTimeAsync(1);
  expect(heard).toEqual(['disturbed']);
});

test('another link, gateway or source is another way', async () => {
  route = { dev: 'eth0', prefsrc: '10.0.0.22', gateway: '10.0.0.1' };
  change(on('eth0'));
  await vi.advanceTimersByTimeAsync(300);
  expect(heard.at(-1)).toBe(
    'changed: the way to the server changed: eth0 via 10.0.0.1 from 10.0.0.22',
  );
  route = null;
  change(on('eth0', true));
  await vi.advanceTimersByTimeAsync(300);
  const gone = 'gone: this host has no way to the server now';
  expect(heard.at(-1)).toBe(gone);
  // Still none to this address, but perhaps to another one of the server.
  change(on('eth0'));
  await vi.advanceTimersByTimeAsync(300);
  expect(heard.slice(-3)).toEqual([gone, 'disturbed', gone]);
});

test('changes without end are looked at after two seconds', async () => {
  for (let i = 0; i < 11; i++) {
    change(on('eth0'));
    await vi.advanceTimersByTimeAsync(200);
  }
  expect(heard).toEqual(['disturbed']);
});

test('what comes to our own device is ours; what goes from it, or is done to it, is looked after', async () => {
  change(on('cvc0'));
  await vi.advanceTimersByTimeAsync(5_000);
  expect(heard).toEqual([]);
  change(on('cvc0', true));
  await vi.advanceTimersByTimeAsync(300);
  expect(heard).toEqual(['disturbed']);
  change({ kind: 'link', device: 'cvc0', gone: false });
  await vi.advanceTimersByTimeAsync(300);
  expect(heard).toEqual(['disturbed', 'disturbed']);
});

test('sleep shows in the clocks, and so does a process that stood still', () => {
  underlay.tick(1_000, 500);
  underlay.tick(1_250, 750);
  expect(heard).toEqual([]);
  underlay.tick(61_500, 1_000);
  expect(heard).toEqual(['changed: this host slept for 60 s', 'disturbed']);
  underlay.tick(61_750, 1_250);
  underlay.tick(81_750, 21_250);
  expect(heard.slice(2)).toEqual(['changed: this host slept for 20 s', 'disturbed']);
});

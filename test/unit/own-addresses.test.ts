/** When a server's host has moved: an address has gone, and one has come. */
import { expect, test } from 'vitest';
import { OwnAddresses } from '../../server/own-addresses.ts';

test('one that has gone and one that has come are a move, at whichever look; others are none', async () => {
  let links: Record<string, readonly string[]> = {};
  const own = new OwnAddresses('cvs0', async () => ({
    stdout: JSON.stringify(
      Object.entries(links).map(([ifname, all]) => ({
        ...{ ifindex: 2, ifname, mtu: 1500, flags: ['UP'] },
        addr_info: all.map((local) => ({ local, prefixlen: 24 })),
      })),
    ),
    stderr: '',
  }));
  const look = (now: typeof links) => {
    links = now;
    return own.look();
  };
  const lo = ['127.0.0.1', '::1'];
  expect(await look({ lo, eth0: ['192.0.2.2'] })).toBe(false);
  // Another one beside it, its end, and what is of this link or our own device.
  const both = ['192.0.2.2', '2001:db8::2'];
  expect(await look({ lo, eth0: both })).toBe(false);
  expect(await look({ lo: [], eth0: both, cvs0: ['192.168.1.1'] })).toBe(false);
  expect(await look({ lo, eth0: [...both, 'fe80::2', '169.254.1.1'] })).toBe(false);
  expect(await look({ lo, eth0: both })).toBe(false);
  // At once, with a pause between, and back where it was.
  expect(await look({ lo, eth0: ['192.0.2.9'] })).toBe(true);
  expect(await look({ lo, eth0: [] })).toBe(false);
  expect(await look({ lo, eth0: ['192.0.2.9'] })).toBe(true);
  expect(await look({ lo, eth0: ['192.0.2.9'] })).toBe(false);
});

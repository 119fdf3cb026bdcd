/** A vpn-device with as much as anybody has: 130,000 allowed IPs, 10,000 peers. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { WgDevice } from './device.ts';
import { inNet } from './harness.ts';

const SETCONF_MS = 5_000;
const SHOW_MS = 2_000;

function key(): string {
  return randomBytes(32).toString('base64');
}

/** Addresses number `from` .. `from + count - 1`, every other one IPv6. */
function networks(from: number, count: number): string {
  return Array.from({ length: count }, (_, i) => {
    const n = from + i;
    const [a, b, c] = [n >> 16, (n >> 8) & 255, n & 255];
    return n % 2
      ? `fd00:${a.toString(16)}:${b.toString(16)}:${c.toString(16)}::/64` //
      : `10.${a}.${b}.${c}/32`;
  }).join(', ');
}

function configuration(peers: number, allowedIpsOfEach: number): string {
  const lines = ['[Interface]', `PrivateKey = ${key()}`];
  for (let i = 0; i < peers; i++) {
    lines.push('[Peer]', `PublicKey = ${key()}`);
    // wg reads lines of any length, but a file of short ones is what people have.
    for (let at = 0; at < allowedIpsOfEach; at += 100) {
      const count = Math.min(100, allowedIpsOfEach - at);
      lines.push(`AllowedIPs = ${networks(i * allowedIpsOfEach + at, count)}`);
    }
  }
  return `${lines.join('\n')}\n`;
}

/** Processor time that the device has used, ms: how long it takes when nobody else computes. */
function used(device: WgDevice): number {
  const stat = readFileSync(`/proc/${device.program.pid}/stat`, 'utf8');
  // Counted from the state, behind the name in parentheses; ticks of 10 ms.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** What `task` returns, and the processor time that the device used for it. */
async function timed<T>(device: WgDevice, task: () => Promise<T>): Promise<[T, number]> {
  const before = used(device);
  return [await task(), used(device) - before];
}

test.each([
  [1, 130_000],
  [10_000, 13],
])('%i peers with %i allowed IPs each are set and shown in time', async (peers, each) => {
  await inNet(['lo'], async (net) => {
    const device = await new WgDevice(net, 'lo').ready();
    const file = device.file('conf', configuration(peers, each));
    device.up();
    // The second time replaces what is there, as a reload does.
    for (const verb of ['setconf', 'setconf', 'syncconf']) {
      const [, took] = await timed(device, () => device.wg(verb, file));
      expect(took, verb).toBeLessThan(SETCONF_MS);
    }
    const [shown, took] = await timed(device, () => device.wg('show', 'allowed-ips'));
    expect(took).toBeLessThan(SHOW_MS);
    const lines = shown.trimEnd().split('\n');
    expect(lines).toHaveLength(peers);
    const counted = lines.reduce((sum, line) => sum + line.split('\t')[1]!.split(' ').length, 0);
    expect(counted).toBe(peers * each);
    expect((await device.program.stop()).code).toBe(143);
  });
});

/**
 * Life and death of an open device, each in a process of its own inside a network namespace:
 *
 *   namespace culvert-nl<pid>: lo 127.0.0.1, one tun made by the addon
 *
 * Drives build/Release/culvert.node directly, since the child processes run plain JavaScript.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const ROOT = new URL('../..', import.meta.url).pathname;
const NAMESPACE = `culvert-nl${process.pid}`;

/** What each child begins with: an open device and how many events came. */
const OPEN = `
  const addon = require('./build/Release/culvert.node');
  const key = new Uint8Array(32).fill(7);
  const device = new addon.NativeDevice();
  const opened = device.open({ device: 'nl%d', mtu: 1420, listen: { port: 0 }, fwmark: 0,
    publicKey: key, clientToClient: 'direct', addresses: [], workers: 2, aead: 'auto',
    offloads: { tunTcp: true, tunUdp: true, udpGso: true, udpGro: true } }, () => ring());
  if ('errno' in opened) throw new Error(opened.step);
  const self = { address: '127.0.0.1', port: opened.port };
  let ring = () => {};
  // Handshakes to itself: their mac1 is good, so each becomes an event.
  device.setPeer(1, { publicKey: key, allowedIps: [], endpoint: self });
  const message = new Uint8Array(148); message[0] = 1;
  const knock = (n) => { for (let i = 0; i < n; i++) device.sendHandshake(1, self, message); };
`;

function child(body: string): { status: number | null; signal: string | null; output: string } {
  const script = `(async () => {${OPEN}${body}})();`;
  const args = ['netns', 'exec', NAMESPACE, process.execPath, '-e', script];
  const { status, signal, stdout, stderr } = spawnSync('ip', args, {
    cwd: ROOT,
    encoding: 'utf8',
    timeout: 50_000,
  });
  return { status, signal, output: stdout + stderr };
}

function links(): string {
  return execFileSync('ip', ['-n', NAMESPACE, '-brief', 'link'], { encoding: 'utf8' });
}

describe.skipIf(process.getuid?.() !== 0)('an open device', () => {
  beforeAll(() => {
    execFileSync(process.execPath, ['scripts/build-addon.mjs'], { cwd: ROOT });
    execFileSync('ip', ['netns', 'add', NAMESPACE]);
    execFileSync('ip', ['-n', NAMESPACE, 'link', 'set', 'lo', 'up']);
  }, 180_000);
  afterAll(() => {
    execFileSync('ip', ['netns', 'delete', NAMESPACE]);
  });

  test('keeps the process alive until it is closed, and close lets it end', () => {
    const { status, output } = child(`
      console.log('open');
      setTimeout(() => { device.close(); device.close(); console.log('closed'); }, 300).unref();
    `);
    expect(output).toBe('open\nclosed\n');
    expect(status).toBe(0);
    expect(links()).not.toContain('nl');
  });

  test('goes with the process: exit, uncaught error, with events on their way', () => {
    for (const [end, status] of [
      ['process.exit(3)', 3],
      ["setImmediate(() => { throw new Error('over'); })", 1],
    ] as const) {
      const done = child(`knock(2000); ${end};`);
      expect(done).toMatchObject({ status, signal: null });
      expect(links()).not.toContain('nl');
    }
  });

  test('goes with the worker thread that opened it', () => {
    const script = `(async () => {${OPEN} setInterval(() => knock(200), 1); })();`;
    const { status, signal, output } = child(`
      device.close();
      const { Worker } = require('node:worker_threads');
      for (let i = 0; i < 5; i++) {
        const worker = new Worker(${JSON.stringify(script)}, { eval: true });
        await new Promise((resolve) => setTimeout(resolve, 100));
        await worker.terminate();
      }
      console.log('terminated');
    `);
    expect(output).toBe('terminated\n');
    expect({ status, signal }).toEqual({ status: 0, signal: null });
    expect(links()).not.toContain('nl');
  });

  test('gives at most 32 handshakes for each turn, and rings once for many', () => {
    const { output } = child(`
      let rings = 0, most = 0, all = 0;
      const drain = () => {
        const n = device.takeEvents().length;
        most = Math.max(most, n); all += n;
        if (device.hasEvents()) setImmediate(drain);
      };
      ring = () => { rings += 1; drain(); };
      knock(100);
      // This thread takes none before the workers have read all.
      const { readFileSync } = require('node:fs');
      const nap = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
      do nap(); while (/:[0-9A-F]{4} 07 [0-9A-F]{8}:(?!0{8})/.test(readFileSync('/proc/net/udp')));
      nap();
      while (all < 100) await new Promise((resolve) => setTimeout(resolve, 10));
      console.log(JSON.stringify({ all, most, fewRings: rings < 100 }));
      device.close();
    `);
    expect(JSON.parse(output)).toEqual({ all: 100, most: 32, fewRings: true });
  });
});

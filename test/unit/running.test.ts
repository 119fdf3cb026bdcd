/** The running clients of a host, one of which is stopped (SIGSTOP). */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { placeOfTunnel } from '../../client/place.ts';
import {
  disconnect,
  readStatus,
  rotateKey,
  showStatus,
  watchStatus,
} from '../../client/running.ts';
import { type LocalSocket, serveLocalSocket } from '../../shared/system/local-socket.ts';
import { collectOutput } from './collected-output.ts';

const LISTENER =
  "require('node:net').createServer().listen(process.argv[1], () => console.log('ready'))";

let folder: string;
let stopped: ChildProcess;
let living: LocalSocket;
let ended: string[];
const place = () => ({ stateDirectory: join(folder, 'state'), runDirectory: folder });

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), `culvert-running-${process.pid}-`));
  const { socketPath } = placeOfTunnel(place(), 'home');
  stopped = spawn(process.execPath, ['-e', LISTENER, socketPath], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(stopped.stdout!, 'data');
  stopped.kill('SIGSTOP');
  ended = [];
  living = await serveLocalSocket(placeOfTunnel(place(), 'office').socketPath, {
    status: () => ({ tunnel: 'office', state: 'connected', ...QUIET }),
    disconnect: () => {
      ended.push('office');
      return { device: 'cvc1' };
    },
  });
});
afterEach(async () => {
  stopped.kill('SIGKILL');
  await living.close();
  rmSync(folder, { recursive: true });
});

const QUIET = {
  ...{ device: 'cvc1', addresses: [], routes: [], clashes: [], drops: {} },
  servers: ['a.example:6000', 'b.example:6001'].map((endpoint) => ({ endpoint, inUse: false })),
  ...{ dns: null, name: null, netns: null, protection: null, connectedSince: null, mtu: 1420 },
  server: { endpoint: null, lastHandshake: null, bytesReceived: 0, bytesSent: 0, drops: {} },
};

test('one that is stopped is named with its process, and the others are shown', async () => {
  const { shown, output } = collectOutput();
  expect(await showStatus(place(), undefined, output)).toBe(3);
  const silent = { tunnel: 'home', state: 'notAnswering', pid: stopped.pid };
  expect(shown[0]!.value).toMatchObject({ tunnels: [silent, { tunnel: 'office' }] });
  expect(shown[0]!.text).toContain(`the client of home does not answer: process ${stopped.pid}`);
  expect(shown[0]!.text).toContain('connected');
  expect(await readStatus(place(), 'home')).toEqual([silent]);
});

test('one that was killed beside others is named, and what to do about it', async () => {
  stopped.kill('SIGKILL');
  await once(stopped, 'close');
  const { shown, output } = collectOutput();
  expect(await showStatus(place(), undefined, output)).toBe(3);
  const tunnels = [{ tunnel: 'office' }, { tunnel: 'home', state: 'gone' }];
  expect(shown[0]!.value).toMatchObject({ tunnels });
  expect(shown[0]!.text).toMatch(/client of home is gone .*vpn-client cleanup/);
  expect(await showStatus(place(), 'office', output)).toBe(0);
});

test('a watch ends when nobody reads it any more', async () => {
  const { shown, output } = collectOutput();
  const watched = Object.assign(output, { onReaderGone: (gone: () => void) => gone() });
  expect(await watchStatus(place(), 'office', watched)).toBe(0);
  expect(shown).toHaveLength(1);
});

test('disconnect ends those that answer, and says which one does not', async () => {
  const { shown, said, output } = collectOutput();
  expect(await disconnect(place(), undefined, true, output)).toBe(1);
  expect(ended).toEqual(['office']);
  expect(shown[0]!.value).toMatchObject({ tunnels: [{ tunnel: 'office' }, { tunnel: 'home' }] });
  expect(said[0]).toContain(`home does not answer: process ${stopped.pid}`);
  for (const command of [disconnect(place(), 'home', false, output), rotateKey(place(), 'home')]) {
    await expect(command).rejects.toMatchObject({ code: 'NOT_ANSWERING', exitCode: 1 });
  }
});

test('a client that ends while it is asked, as for another disconnect, is gone', async () => {
  const { socketPath } = placeOfTunnel(place(), 'ending');
  const ending = await serveLocalSocket(socketPath, {
    status: () => ({ tunnel: 'ending', state: 'connected', ...QUIET }),
    disconnect: () => {
      void ending.close();
      return new Promise(() => {});
    },
  });
  const asked = disconnect(place(), 'ending', false, collectOutput().output);
  await expect(asked).rejects.toMatchObject({ code: 'NOT_RUNNING', exitCode: 3 });
});

test('a tunnel is found by each of its servers', async () => {
  const found = await readStatus(place(), 'B.example:6001');
  expect(found).toMatchObject([{ tunnel: 'office' }]);
  await expect(readStatus(place(), 'c.example:6001')).rejects.toMatchObject({
    code: 'NOT_RUNNING',
  });
});

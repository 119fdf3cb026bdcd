/** Notices to systemd: what is said, when, and to whom (real datagrams to a real socket). */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { sendUnixDatagram } from '../../native/index.ts';
import { openNotifier } from '../../shared/system/notify.ts';

const directory = mkdtempSync(join(tmpdir(), 'culvert-notify-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function collect(environment: Record<string, string>) {
  const said: string[] = [];
  const notifier = openNotifier({ NOTIFY_SOCKET: '/run/x', ...environment }, (_, t) => {
    said.push(t);
  });
  return { said, notifier: notifier! };
}

test('a program that systemd did not start tells nobody', () => {
  expect(openNotifier({})).toBeNull();
  expect(openNotifier({ NOTIFY_SOCKET: 'vsock:2:1234' })).toBeNull();
});

test('the steps of a service are said in systemd words', () => {
  const { said, notifier } = collect({});
  notifier.ready();
  notifier.status('2 peers\nand more');
  notifier.status('2 peers\nand more');
  notifier.reloading(17n);
  notifier.stopping();
  expect(said).toEqual([
    'READY=1',
    'STATUS=2 peers and more',
    'RELOADING=1\nMONOTONIC_USEC=17',
    'STOPPING=1',
  ]);
});

test('signs of life come three times within the patience of the watchdog', () => {
  const { said, notifier } = collect({ WATCHDOG_USEC: '3000000' });
  for (let now = 0; now < 3000; now += 250) notifier.alive(now);
  expect(said).toEqual(['WATCHDOG=1', 'WATCHDOG=1', 'WATCHDOG=1']);
});

test('without a watchdog there are no signs of life', () => {
  const { said, notifier } = collect({});
  notifier.alive(0);
  notifier.alive(100_000);
  expect(said).toEqual([]);
});

const LISTENER = `import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
name = sys.argv[1]
s.bind('\\0' + name[1:] if name[0] == '@' else name)
print('bound', flush=True)
print(s.recv(1000).decode(), flush=True)`;

test.each(['@culvert-notify-PID', 'DIRECTORY/notify'])('a notice arrives at %s', async (name) => {
  const path = name.replace('PID', String(process.pid)).replace('DIRECTORY', directory);
  const listener = spawn('python3', ['-c', LISTENER, path], { stdio: ['ignore', 'pipe', 'pipe'] });
  try {
    const heard = new Promise<string>((resolve, reject) => {
      let text = '';
      listener.stdout.setEncoding('utf8').on('data', (part) => {
        text += part;
        if (text === 'bound\n') openNotifier({ NOTIFY_SOCKET: path })?.ready();
        if (text.endsWith('READY=1\n')) resolve(text);
      });
      listener.once('close', () => reject(new Error(`heard only ${text}`)));
    });
    expect(await heard).toBe('bound\nREADY=1\n');
  } finally {
    listener.kill('SIGKILL');
  }
});

test('a notice that nobody takes is lost, and says why', () => {
  expect(sendUnixDatagram(join(directory, 'nobody'), 'READY=1')).toMatch(/ENOENT/);
  expect(sendUnixDatagram('/'.repeat(200), 'READY=1')).toMatch(/ENAMETOOLONG/);
});

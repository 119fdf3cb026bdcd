/** How a vpn-device begins and ends: as daemon, by signals, with its device, with its socket. */
import { execFileSync } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import { expect, test } from 'vitest';
import { socketOf, vpnDevice, WgDevice } from './device.ts';
import { inNet, type Net } from './harness.ts';
import { eventually } from './waiting.ts';
import { uniqueDevice } from './wireguard.ts';

/** Devices of a host besides `lo`. */
function devices(net: Net, host: string): string[] {
  const links = JSON.parse(net.ip(host, '-json', 'link', 'show')) as { ifname?: string }[];
  return links.map((link) => link.ifname ?? '').filter((name) => name !== 'lo' && name !== '');
}

function pids(net: Net, host: string): string[] {
  const found = execFileSync('ip', ['netns', 'pids', net.namespace(host)], { encoding: 'utf8' });
  return found.split('\n').filter(Boolean);
}

test('as daemon it returns when device and socket are there, and lets go of its starter', async () => {
  await inNet(['lo'], async (net) => {
    net.remember();
    const name = uniqueDevice();
    // The outputs are closed too, or this would wait for the daemon's end.
    const started = await net.run('lo', ...vpnDevice(name));
    expect([started.code, started.stdout, started.stderr]).toEqual([0, '', '']);
    expect(devices(net, 'lo')).toEqual([name]);
    expect(existsSync(socketOf(name))).toBe(true);
    expect(await net.must('lo', 'wg', ['show', name])).toContain(`interface: ${name}`);
    const [daemon] = pids(net, 'lo');
    const session = await net.must('lo', 'ps', ['-o', 'sid=,ppid=', '-p', daemon!]);
    expect(session.trim().split(/\s+/)[0]).toBe(daemon);
    net.ip('lo', 'link', 'delete', name);
    await eventually('it ended', 5_000, () => pids(net, 'lo').length === 0);
    expect(existsSync(socketOf(name))).toBe(false);
  });
});

test('as daemon with LOG_LEVEL it talks on stderr', async () => {
  await inNet(['lo'], async (net) => {
    const name = uniqueDevice();
    const program = net.start('lo', ...vpnDevice(name), { env: { LOG_LEVEL: 'verbose' } });
    await program.says(/device made/);
    net.ip('lo', 'link', 'delete', name);
    await program.says(/device removed/);
    expect((await program.end(5_000)).code).toBe(0);
  });
});

test('WG_PROCESS_FOREGROUND=1 keeps it in the foreground', async () => {
  await inNet(['lo'], async (net) => {
    const name = uniqueDevice();
    const env = { WG_PROCESS_FOREGROUND: '1', LOG_LEVEL: 'silent' };
    const program = net.start('lo', ...vpnDevice(name), { env });
    await eventually('its socket', 10_000, () => existsSync(socketOf(name)));
    expect(program.running).toBe(true);
    expect((await program.stop()).code).toBe(143);
    expect([program.stdout, program.stderr]).toEqual(['', '']);
  });
});

const ENDS: [string, number, (device: WgDevice) => void][] = [
  ['SIGTERM', 143, (device) => device.program.signal('SIGTERM')],
  ['SIGINT', 130, (device) => device.program.signal('SIGINT')],
  ['SIGQUIT', 131, (device) => device.program.signal('SIGQUIT')],
  ['SIGHUP', 129, (device) => device.program.signal('SIGHUP')],
  ['the deletion of its device', 0, (d) => void d.net.ip(d.host, 'link', 'delete', d.name)],
  ['the removal of its socket', 0, (device) => rmSync(socketOf(device.name))],
];

test.each(ENDS)('%s ends it and leaves nothing', async (_what, exit, end) => {
  await inNet(['lo'], async (net) => {
    net.remember();
    const device = await new WgDevice(net, 'lo').ready();
    end(device);
    expect((await device.program.end(5_000)).code).toBe(exit);
    expect(devices(net, 'lo')).toEqual([]);
    expect(existsSync(socketOf(device.name))).toBe(false);
  });
});

test('after kill -9 the next one of the same name takes over', async () => {
  await inNet(['lo'], async (net) => {
    const name = uniqueDevice();
    for (const again of [true, false]) {
      const program = net.start('lo', ...vpnDevice('-f', name));
      await program.says(/device made/);
      expect(await net.must('lo', 'wg', ['show', name])).toContain(name);
      await (again ? program.kill() : program.stop());
      expect(existsSync(socketOf(name))).toBe(again);
      expect(devices(net, 'lo')).toEqual([]);
    }
  });
});

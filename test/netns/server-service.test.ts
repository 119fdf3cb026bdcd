/**
 * The server as systemd runs it: a user of its own with one privilege, /proc/sys read-only but for
 * the network, a notice socket. systemd itself is not needed: the sandbox is made by hand.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server
 */
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { layStar } from './topology.ts';
import { Client, vpn } from './vpn.ts';
import { eventually } from './waiting.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const USER = 61_234;
/** Bit of CAP_NET_ADMIN. */
const NET_ADMIN_ONLY = (1n << 12n).toString(16).padStart(16, '0');

/** Made in the mount namespace that `ip netns exec` gives; the checkout may be private to root. */
const SANDBOX = `set -e
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,rw /proc/sys/net
mount -t tmpfs tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
mount --bind ${ROOT} /mnt
cap=+net_admin
exec setpriv --reuid=${USER} --regid=${USER} --clear-groups --no-new-privs \\
  --bounding-set=-all,$cap --inh-caps=-all,$cap --ambient-caps=-all,$cap "$@"`;

const LISTENER = `import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
print('bound', flush=True)
while True: print(s.recv(4096).decode(), flush=True)`;

test('a user with CAP_NET_ADMIN alone serves, forwards, and tells systemd how it is', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    net.ip('server', 'route', 'add', 'default', 'via', '10.77.1.2');
    net.remember();
    chmodSync(net.directory, 0o711);
    const folder = join(net.directory, 'service');
    mkdirSync(folder, { mode: 0o700 });
    await net.must('server', 'chown', [String(USER), folder]);
    const came = join(folder, 'came');
    const settings = `endpoint: 10.77.1.1\nhooks: { connected: [[/usr/bin/tee, ${came}]] }\n`;
    writeFileSync(join(net.directory, 'server.yaml'), settings);
    const notices = join(net.directory, 'notices');
    const systemd = net.start('server', 'python3', ['-c', LISTENER, notices]);
    await systemd.says(/bound/);

    const env = {
      NOTIFY_SOCKET: notices,
      WATCHDOG_USEC: '3000000',
      STATE_DIRECTORY: join(folder, 'state'),
      RUNTIME_DIRECTORY: join(folder, 'run'),
      CREDENTIALS_DIRECTORY: net.directory,
    };
    const start = [process.execPath, '/mnt/dist/server/cli.js', 'start'];
    const server = net.start('server', 'sh', ['-c', SANDBOX, 'sh', ...start], { env });
    await server.says(/culvert1_/);
    await systemd.says(/READY=1/);
    await systemd.says(/STATUS=0 peers connected/);

    const flags = ['--state', env.STATE_DIRECTORY, '--run', env.RUNTIME_DIRECTORY];
    const doctor = await vpn(net, 'server', 'server', ['doctor', '--json', ...flags]);
    expect([doctor.code, JSON.parse(doctor.stdout).ok], doctor.stdout).toEqual([0, true]);

    const ask = ['invite', 'a', '--json', ...flags];
    const { invite } = JSON.parse((await vpn(net, 'server', 'server', ask)).stdout);
    const client = new Client(net, 'a');
    await client.enrol(invite);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
    await systemd.says(/STATUS=1 peer connected, [\d.]+ \w+\/s in/);
    await systemd.says(/WATCHDOG=1\n(.|\n)*WATCHDOG=1/);

    const hook = await eventually('the hook ran', 5_000, () => {
      return existsSync(came) ? readFileSync(came, 'utf8') : '';
    });
    expect(JSON.parse(hook)).toMatchObject({
      type: 'connected',
      peer: 'a',
      device: expect.stringMatching(/^cvs/),
    });

    // Its user, its privilege, and no core dump.
    const proc = (file: string) => readFileSync(`/proc/${server.pid}/${file}`, 'latin1');
    expect(proc('status')).toMatch(new RegExp(`^CapEff:\\s+${NET_ADMIN_ONLY}$`, 'm'));
    expect(proc('status')).toMatch(new RegExp(`^Uid:\\s+${USER}\\s+${USER}`, 'm'));
    expect(proc('limits')).toMatch(/Max core file size +0 +0/);
    // The memory of a process that may not be dumped belongs to root.
    const owner = await net.must('server', 'stat', ['-c', '%u', `/proc/${server.pid}/mem`]);
    expect(owner.trim()).toBe('0');

    server.signal('SIGHUP');
    await systemd.says(/RELOADING=1\nMONOTONIC_USEC=\d+\n(.|\n)*READY=1/);
    await client.program?.stop();
    server.signal('SIGTERM');
    expect((await server.end(4_000)).code).toBe(143);
    await systemd.says(/STOPPING=1/);
    expect(net.difference('server')).toEqual([]);
  });
});

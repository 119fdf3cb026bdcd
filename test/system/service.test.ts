/**
 * The units as systemd runs them, on machines set up by the lines of docs/OPERATIONS.md.
 *
 *   client eth0 10.77.1.2 ---- 10.77.1.1 s1 server w0 10.88.0.1 ---- 10.88.0.2 eth0 world
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import { Net } from '../netns/harness.ts';
import { eventually } from '../netns/waiting.ts';
import { Machine, unpackProgram } from './machine.ts';

const SERVER = 'vpn-server';
const TARGET = '10.77.1.1:6000';
const CLIENT = `vpn-client@${TARGET}`;
const CONFIG = '/etc/culvert/server.yaml';
const CAME = '/var/lib/culvert/came';
const SETTINGS = `endpoint: ${TARGET}\nhooks: { connected: [[/usr/bin/tee, ${CAME}]] }\n`;
const UNITS = '/usr/lib/node_modules/culvert-vpn/client/systemd';
const WORLD = '10.88.0.2';
const TAKEN = /\/var\/lib\/culvert\/clients belongs to the server's service now/;
const NET_ADMIN = (1n << 12n).toString(16).padStart(16, '0');

let net: Net;
let server: Machine;
let client: Machine;

beforeAll(async () => {
  net = new Net(['server', 'client', 'world']);
  const s1 = { host: 'server', device: 's1', addresses: ['10.77.1.1/24'] };
  net.wire(s1, { host: 'client', device: 'eth0', addresses: ['10.77.1.2/24'] });
  const w0 = { host: 'server', device: 'w0', addresses: ['10.88.0.1/24'] };
  net.wire(w0, { host: 'world', device: 'eth0', addresses: [`${WORLD}/24`] });
  net.ip('server', 'route', 'add', 'default', 'via', WORLD);
  net.ip('client', 'route', 'add', 'default', 'via', '10.77.1.1');
  const program = unpackProgram(net);
  server = await Machine.boot(net, 'server', program);
  client = await Machine.boot(net, 'client', program);
  net.remember();
});

afterAll(async () => {
  try {
    await server?.run('systemctl', ['stop', SERVER]);
    await client?.halt();
    await server?.halt();
  } finally {
    await net?.close();
  }
});

/** Main process of a unit as its machine calls it. */
const mainOf = (machine: Machine, unit: string) => machine.property(unit, 'MainPID');
const kill = async (machine: Machine, unit: string, signal: string) => {
  await machine.must('kill', [`-${signal}`, await mainOf(machine, unit)]);
};
const isUp = (machine: Machine, address: string) =>
  eventually(`${address} answers`, 20_000, () => machine.reaches(address));

describe('the server', () => {
  test('is installed by one line, and ready when that returns', async () => {
    await server.write(CONFIG, SETTINGS);
    // A client of this host was enrolled somewhere before.
    const enrolled = 'clients/vpn.example_6000/profile.json';
    await server.write(`/var/lib/culvert/${enrolled}`, '{}');
    const said = (await server.run('vpn-server', ['service', 'install'])).stderr;
    expect(said).toContain('moved, because the service gets /var/lib/culvert: ');
    const owner = ['stat', '-c', '%U', `/var/lib/culvert-client/${enrolled}`];
    expect(await server.type(owner.join(' '))).toBe('root\n');
    await server.type('rm -r /var/lib/culvert-client');
    expect((await server.must('systemctl', ['is-enabled', SERVER])).trim()).toBe('enabled');
    expect(await server.property(SERVER, 'ActiveState')).toBe('active');
    expect(await server.property(SERVER, 'StatusText')).toMatch(/^0 peers connected/);
    const journal = await server.journal(SERVER);
    expect(journal).toMatch(/`vpn-server invite NAME` lets a device in[\s\S]*server is ready/);
    expect(journal).not.toContain('culvert1_');
    const { ok } = JSON.parse(await server.must('vpn-server', ['doctor', '--json']));
    expect(ok).toBe(true);

    const status = await server.must('cat', [`/proc/${await mainOf(server, SERVER)}/status`]);
    expect(status).toMatch(new RegExp(`^CapEff:\\s+${NET_ADMIN}$`, 'm'));
    expect(status).toMatch(/^Uid:\s+[1-9]\d*/m);
    expect(status).toMatch(/^Seccomp:\s+2$/m);
  });

  test('lets a client in, forwards for it, and runs a hook', async () => {
    const { invite } = JSON.parse(await server.must('vpn-server', ['invite', 'laptop', '--json']));
    const connect = ['connect', '--invite-file', '-', '--daemon'];
    await client.must('vpn-client', connect, { input: `${invite}\n` });
    await client.must('vpn-client', ['disconnect']);

    await client.must('vpn-client', ['service', 'install', TARGET]);
    expect((await client.must('systemctl', ['is-enabled', CLIENT])).trim()).toBe('enabled');
    expect(await client.property(CLIENT, 'StatusText')).toMatch(/^connected: 192\.168\.1\.2/);
    await isUp(client, '192.168.1.1');
    const came = async () => (await server.run('cat', [CAME])).stdout;
    expect(JSON.parse(await eventually('the hook ran', 5_000, came))).toMatchObject({
      type: 'connected',
      peer: 'laptop',
    });
  });

  test('reads its settings again, and stays up when they are bad', async () => {
    await server.write(CONFIG, `${SETTINGS}push: { routes: [10.88.0.0/24] }\n`);
    await server.must('systemctl', ['reload', SERVER]);
    await isUp(client, WORLD);
    await server.write(CONFIG, 'push: {');
    expect((await server.run('systemctl', ['reload', SERVER])).code).not.toBe(0);
    expect(await server.property(SERVER, 'ActiveState')).toBe('active');
    expect(await server.journal(SERVER)).toMatch(/server\.yaml:1:8/);
    await server.write(CONFIG, SETTINGS);
    await server.must('systemctl', ['reload', SERVER]);
  });

  test('is there again after kill -9, after a hang and after a restart', async () => {
    await kill(server, SERVER, 'KILL');
    await server.becomes(SERVER, 'NRestarts', '1');
    await server.becomes(SERVER, 'ActiveState', 'active');
    expect(await server.journal(SERVER)).toMatch(/undone: nftables table/);
    await isUp(client, '192.168.1.1');

    await server.write(
      '/etc/systemd/system/vpn-server.service.d/a.conf',
      '[Service]\nWatchdogSec=3\n',
    );
    await server.type('systemctl daemon-reload && systemctl restart vpn-server');
    const before = await mainOf(server, SERVER);
    await kill(server, SERVER, 'STOP');
    const isNew = async () => ![before, '0'].includes(await mainOf(server, SERVER));
    await eventually('another process', 20_000, isNew);
    await server.becomes(SERVER, 'ActiveState', 'active');
    expect(await server.property(SERVER, 'NRestarts')).toBe('1');
    await isUp(client, '192.168.1.1');
    await client.must('systemctl', ['stop', CLIENT]);
  });

  test('leaves the host as it was when it is stopped, either way', async () => {
    await server.must('systemctl', ['stop', SERVER]);
    expect(await server.property(SERVER, 'Result')).toBe('success');
    expect(net.difference('server')).toEqual([]);
    await server.must('systemctl', ['start', SERVER]);
    await server.must('vpn-server', ['stop']);
    await server.becomes(SERVER, 'ActiveState', 'inactive');
    expect(await server.property(SERVER, 'Result')).toBe('success');
    expect(net.difference('server')).toEqual([]);
  });

  test('is taken away by one line, and comes back with what it knows', async () => {
    await server.must('vpn-server', ['service', 'uninstall']);
    expect((await server.run('systemctl', ['is-enabled', SERVER])).code).not.toBe(0);
    expect((await server.run('vpn-server', ['service', 'uninstall'])).code).toBe(1);
    await server.must('vpn-server', ['service', 'install']);
    const peers = await server.must('vpn-server', ['peers', '--json']);
    expect(peers).toContain('"laptop"');
    await server.must('systemctl', ['stop', SERVER]);
  });

  test('reads what root has restored, and what root did in the foreground', async () => {
    await server.must('vpn-server', ['backup', '/root/backup']);
    await server.must('vpn-server', ['restore', '/root/backup', '--replace']);
    await server.must('systemctl', ['start', SERVER]);
    const { peers } = JSON.parse(await server.must('vpn-server', ['peers', '--json']));
    expect(peers.map(({ name }: { name: string }) => name)).toContain('laptop');
    await server.must('systemctl', ['stop', SERVER]);
    expect((await server.run('timeout', ['3', 'vpn-server', 'start'])).code).toBe(124);
    await server.must('systemctl', ['start', SERVER]);
  });

  test('reads settings that only root may read, and listens below 1024', async () => {
    const file = '/etc/culvert/private.yaml';
    const credential = '/etc/systemd/system/vpn-server.service.d/b.conf';
    await server.write(file, `${SETTINGS}listen: 443\n`);
    await server.write(credential, `[Service]\nLoadCredential=server.yaml:${file}\n`);
    const unit = '/etc/systemd/system/vpn-server.service';
    await server.type(`chmod 0600 ${file} && vpn-server service --config ${file} > ${unit}`);
    await server.type('systemctl daemon-reload && systemctl restart vpn-server');
    expect(JSON.parse(await server.must('vpn-server', ['status', '--json'])).port).toBe(443);
    await server.type(`rm ${credential} && vpn-server service > ${unit}`);
    await server.type('systemctl daemon-reload && systemctl restart vpn-server');
  });

  test('and a client of the same host are services beside each other, each with its files', async () => {
    const owners = async (...names: string[]) => {
      const folders = names.flatMap((name) => [`/var/lib/${name}`, `/run/${name}`]);
      return await server.must('stat', ['-L', '-c', '%U %a', ...folders]);
    };
    expect(await owners('culvert')).toBe('culvert 700\nculvert 700\n');
    // What the service took over when it was started by hand is named.
    await server.type('mkdir /var/lib/culvert/clients');
    const connected = await server.run('vpn-client', ['connect', 'vpn.example:6000']);
    expect([connected.code, connected.stderr]).toEqual([5, expect.stringMatching(TAKEN)]);
    await server.type('rmdir /var/lib/culvert/clients');
    // It waits for its peer, and is up meanwhile.
    const [own, peer] = [generatePrivateKey(), publicKeyOf(generatePrivateKey())];
    const head = `[Interface]\nPrivateKey = ${keyToBase64(own)}\nAddress = 10.9.0.2/24\n`;
    const text = `${head}[Peer]\nPublicKey = ${keyToBase64(peer)}\n`;
    await server.write('/root/branch.conf', `${text}AllowedIPs = 10.9.0.0/24\n`);
    await server.must('chmod', ['0600', '/root/branch.conf']);
    await server.must('vpn-client', ['service', 'install', '/root/branch.conf']);
    const enrolled = 'vpn-client@vpn.example:6000';
    expect((await server.run('systemctl', ['start', enrolled])).code).not.toBe(0);
    expect(await server.journal(enrolled)).toMatch(TAKEN);
    const tunnel = async () => JSON.parse(await server.must('vpn-client', ['status', '--json']));
    expect(await tunnel()).toMatchObject({ tunnel: 'branch', state: 'connected' });
    await server.must('systemctl', ['restart', SERVER]);
    expect(await tunnel()).toMatchObject({ tunnel: 'branch', state: 'connected' });
    await server.must('systemctl', ['restart', 'vpn-client@branch']);
    expect(JSON.parse(await server.must('vpn-server', ['status', '--json'])).port).toBe(6000);
    const both = 'culvert 700\nculvert 700\nroot 700\nroot 700\n';
    expect(await owners('culvert', 'culvert-client')).toBe(both);
    await server.must('vpn-client', ['service', 'uninstall', 'branch']);
    expect(await server.property('vpn-client@branch', 'ActiveState')).toBe('inactive');
    expect(await server.type('ls /etc/systemd/system')).not.toContain('vpn-client');
    expect(await server.type('stat -c %a /etc/culvert/clients/branch.conf')).toBe('600\n');
  });
});

describe('the client', () => {
  const dropIn = (unit: string) => `/etc/systemd/system/${unit}.service.d/options.conf`;

  test('is there again after kill -9, and ends with `disconnect`', async () => {
    await client.must('systemctl', ['start', CLIENT]);
    await kill(client, CLIENT, 'KILL');
    await client.becomes(CLIENT, 'NRestarts', '1');
    await client.becomes(CLIENT, 'ActiveState', 'active');
    await isUp(client, '192.168.1.1');
    await client.must('vpn-client', ['disconnect']);
    await client.becomes(CLIENT, 'ActiveState', 'inactive');
    expect(await client.property(CLIENT, 'Result')).toBe('success');
    expect(net.difference('client')).toEqual([]);
  });

  test('with a name that nobody knows is not tried again', async () => {
    expect((await client.run('systemctl', ['start', 'vpn-client@nobody'])).code).not.toBe(0);
    expect(await client.property('vpn-client@nobody', 'ActiveState')).toBe('failed');
    expect(await client.property('vpn-client@nobody', 'ExecMainStatus')).toBe('5');
    expect(await client.journal('vpn-client@nobody')).toMatch(/neither HOST:PORT nor a file/);
  });

  test('sends everything through the tunnel by a drop-in, also past its own death', async () => {
    const options = '[Service]\nExecStart=\nExecStart=vpn-client connect %i --full --protect\n';
    await client.write(dropIn(CLIENT), options);
    await client.type(`systemctl daemon-reload && systemctl start ${CLIENT}`);
    await isUp(client, WORLD);
    await kill(client, CLIENT, 'KILL');
    await client.becomes(CLIENT, 'ActiveState', 'activating');
    expect(await client.reaches(WORLD)).toBe(false);
    await client.becomes(CLIENT, 'ActiveState', 'active');
    await isUp(client, WORLD);
    await client.must('systemctl', ['stop', CLIENT]);
    await client.type(`rm ${dropIn(CLIENT)} && systemctl daemon-reload`);
    expect(net.difference('client')).toEqual([]);
  });

  test('stays locked down after a reboot, and after nftables has flushed its tables', async () => {
    const unit = 'vpn-client-lockdown';
    const isLocked = async () =>
      (await client.must('nft', ['list', 'tables'])).includes('culvert-lockdown');
    await client.must('vpn-client', ['connect', TARGET, '--full', '--lockdown', '--daemon']);
    await client.must('vpn-client', ['disconnect']);
    await client.type(`cp ${UNITS}/${unit}.service /etc/systemd/system/`);
    await client.type(`systemctl daemon-reload && systemctl enable --now ${unit}`);
    // As after a reboot: no rules, and nothing started.
    await client.type(`systemctl stop ${unit} && nft flush ruleset`);
    expect(await isLocked()).toBe(false);
    await client.must('systemctl', ['start', 'sysinit.target', unit]);
    expect(await isLocked()).toBe(true);
    const before = await client.property(unit, 'Before');
    expect(before.split(' ')).toContain('network-pre.target');
    expect(await client.must('systemd-analyze', ['verify', 'sysinit.target'])).toBe('');

    await client.type(`systemctl start nftables && systemctl restart ${unit}`);
    for (const verb of ['reload', 'restart']) {
      await client.must('systemctl', [verb, 'nftables']);
      await eventually(`locked down after a ${verb}`, 10_000, isLocked);
    }
    await client.must('vpn-client', ['unlock']);
    await client.type(`systemctl disable --now ${unit} && systemctl stop nftables`);
    expect(await isLocked()).toBe(false);
    expect(net.difference('client')).toEqual([]);
  });

  test('has its tunnel in a namespace that the whole host sees', async () => {
    const profile = await server.must('vpn-server', ['invite', 'office', '--wireguard', '--json']);
    const file = '/root/office.conf';
    await client.write(file, JSON.parse(profile).profile);
    await client.must('chmod', ['0600', file]);
    const unit = 'vpn-client@office';
    const folder = `/etc/systemd/system/${unit}.service.d`;
    await client.type(`mkdir ${folder} && cp ${UNITS}/netns.conf ${folder}/`);
    await client.must('vpn-client', ['service', 'install', file]);
    const ping = ['exec', '--', 'ping', '-n', '-c', '1', '-W', '2', WORLD];
    const inside = async () => (await client.run('vpn-client', ping)).code === 0;
    await eventually('the world answers in the namespace', 20_000, inside);
    expect(net.difference('client')).toEqual([]);
    await kill(client, unit, 'KILL');
    await client.becomes(unit, 'NRestarts', '1');
    await client.becomes(unit, 'ActiveState', 'active');
    await eventually('the world answers in the namespace', 20_000, inside);
    await client.must('vpn-client', ['service', 'uninstall', 'office']);
    expect(await client.must('ls', ['/run/netns'])).toBe('');
    expect((await client.must('stat', ['-c', '%a', '/run/netns'])).trim()).toBe('755');
  });

  test('is a service no more after `uninstall`, and connects by hand as before', async () => {
    await client.must('systemctl', ['start', CLIENT]);
    await client.must('vpn-client', ['service', 'uninstall', TARGET]);
    expect((await client.run('vpn-client', ['status'])).code).toBe(3);
    expect(await client.type('ls /etc/systemd/system')).not.toContain('vpn-client@.service');
    expect((await client.run('vpn-client', ['service', 'uninstall', TARGET])).code).toBe(1);
    await client.must('vpn-client', ['connect', TARGET, '--daemon']);
    // Nothing of a service is made while the tunnel is up by other means.
    expect((await client.run('vpn-client', ['service', 'install', TARGET])).code).toBe(8);
    expect(await client.type('ls /etc/systemd/system')).not.toContain('vpn-client@.service');
    await client.must('vpn-client', ['disconnect']);
    expect(net.difference('client')).toEqual([]);
  });
});

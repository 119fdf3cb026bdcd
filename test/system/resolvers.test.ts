/**
 * Name servers of the tunnel by those who keep a host's resolver, the real ones, each on a machine
 * of its own with a name server on the link and another behind the tunnel: which of them is asked
 * shows in the answer.
 *
 *   resolved   eth0 10.77.1.2 ---- 10.77.1.1 s1 server: 192.168.1.1 in the tunnel
 *   openresolv eth0 10.77.2.2 ---- 10.77.2.1 s2
 *   debian     eth0 10.77.3.2 ---- 10.77.3.1 s3
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Net } from '../netns/harness.ts';
import { layStar, serverAddress } from '../netns/topology.ts';
import { eventually } from '../netns/waiting.ts';
import { Machine, unpackProgram } from './machine.ts';

const NAMES = fileURLToPath(new URL('../netns/applications/names.mjs', import.meta.url));
const HOSTS = ['resolved', 'openresolv', 'debian'] as const;
type Host = (typeof HOSTS)[number];
const TARGET = '10.77.1.1:6000';
const UNIT = `vpn-client@${TARGET}`;
const OPTIONS = `/etc/systemd/system/${UNIT}.service.d/options.conf`;
const PUSH = 'push: { dns: [192.168.1.1], domains: [corp.example] }';
/** What the name server on the link answers, and that behind the tunnel. */
const [BESIDE, INSIDE] = ['10.1.1.1', '10.9.9.9'];
const STUB = '/run/systemd/resolve/stub-resolv.conf';
const SPLIT = '';
const FULL = '--full';

let net: Net;
let server: Machine;
const machines = new Map<Host, Machine>();

beforeAll(async () => {
  net = new Net(['server', ...HOSTS]);
  layStar(net, HOSTS);
  const program = unpackProgram(net);
  server = await Machine.boot(net, 'server', program);
  await server.write('/etc/culvert/server.yaml', `endpoint: ${TARGET}\n${PUSH}\n`);
  await server.type('vpn-server service > /etc/systemd/system/vpn-server.service');
  await server.type('systemctl daemon-reload && systemctl start vpn-server');
  const serve = async (address: string, answer: string) => {
    const file = join(net.directory, answer);
    writeFileSync(file, answer);
    await net.start('server', process.execPath, [NAMES, address, file]).says(/ready/);
  };
  await serve('192.168.1.1', INSIDE);
  for (const [at, host] of HOSTS.entries()) {
    await serve(serverAddress(at + 1), BESIDE);
    const machine = await Machine.boot(net, host, program);
    machines.set(host, machine);
    await machine.write('/etc/resolv.conf', `nameserver ${serverAddress(at + 1)}\n`);
    const { invite } = JSON.parse(await server.must('vpn-server', ['invite', host, '--json']));
    const connect = ['connect', '--invite-file', '-', '--daemon'];
    const { code } = await machine.run('vpn-client', connect, { input: `${invite}\n` });
    // A plain file cannot split names.
    expect(code).toBe(9);
    await machine.must('vpn-client', ['disconnect']);
    await machine.type('vpn-client service > /etc/systemd/system/vpn-client@.service');
  }
});

afterAll(async () => {
  try {
    await server?.run('systemctl', ['stop', 'vpn-server']);
    for (const machine of [...machines.values(), server]) await machine?.halt();
  } finally {
    await net?.close();
  }
});

/** Starts the tunnel with options of `connect`. Returns its `status`. */
async function up(machine: Machine, options: string): Promise<{ device: string; dns: object }> {
  const start = `ExecStart=vpn-client connect %i ${options}`;
  await machine.write(OPTIONS, `[Service]\nExecStart=\n${start}\n`);
  await machine.type(`systemctl daemon-reload && systemctl start ${UNIT}`);
  return JSON.parse((await machine.run('vpn-client', ['status', '--json'])).stdout);
}

const down = (machine: Machine) => machine.must('systemctl', ['stop', UNIT]);

/** Ends the client by SIGKILL and keeps systemd from starting another. */
async function killForGood(machine: Machine): Promise<void> {
  await machine.must('kill', ['-KILL', await machine.property(UNIT, 'MainPID')]);
  await machine.becomes(UNIT, 'ActiveState', 'activating');
  await down(machine);
}

/** The address that a program finds for a name. */
async function ask(machine: Machine, name: string): Promise<string> {
  const { stdout } = await machine.run('getent', ['ahostsv4', name]);
  return stdout.split(' ')[0] ?? '';
}

/** Asks for a name below the pushed domain, and for one that is not. */
async function askBoth(machine: Machine): Promise<string[]> {
  return [await ask(machine, 'intra.corp.example'), await ask(machine, 'www.example.net')];
}

describe('systemd-resolved', () => {
  const state = async (machine: Machine): Promise<string> => {
    const text = await machine.must('resolvectl', ['status', '--no-pager']);
    // Which server was asked last, and the room that this line takes.
    return text.replace(/^ *Current DNS Server: .*\n/gm, '').replace(/^ +/gm, '');
  };
  let machine: Machine;
  let before: string;

  beforeAll(async () => {
    machine = machines.get('resolved')!;
    const systemd = execFileSync('dpkg-query', ['--show', 'systemd'], { encoding: 'utf8' });
    await machine.install('systemd-resolved', systemd.trim().split('\t')[1]);
    // As after a reboot: it began before the bus knew its rights.
    await machine.must('systemctl', ['restart', 'systemd-resolved']);
    await machine.must('resolvectl', ['dns', 'eth0', serverAddress(1)]);
    before = await state(machine);
    expect(await askBoth(machine)).toEqual([BESIDE, BESIDE]);
  });

  test('asks the tunnel for names of its domains alone', async () => {
    const { device, dns } = await up(machine, SPLIT);
    expect(dns).toMatchObject({ keeper: 'systemd-resolved', problem: null });
    expect(await askBoth(machine)).toEqual([INSIDE, BESIDE]);
    expect(await machine.must('resolvectl', ['query', '-4', 'intra.corp.example'])).toContain(
      device,
    );
    await down(machine);
    expect(await state(machine)).toBe(before);
  });

  test('asks the tunnel for everything in a full tunnel, also after a restart of its own', async () => {
    const { device } = await up(machine, FULL);
    expect(await machine.must('resolvectl', ['domain', device])).toContain('~. corp.example');
    expect(await askBoth(machine)).toEqual([INSIDE, INSIDE]);
    await machine.must('systemctl', ['restart', 'systemd-resolved']);
    await eventually('it answers', 5_000, () => ask(machine, 'once.example.net'));
    expect(await askBoth(machine)).toEqual([INSIDE, INSIDE]);
    await down(machine);
    expect(await state(machine)).toBe(before);
  });

  test('names the servers of all links in a file for programs: the tunnel has a file of its own', async () => {
    const ofResolved = '/run/systemd/resolve/resolv.conf';
    await machine.must('ln', ['-sf', ofResolved, '/etc/resolv.conf']);
    await eventually(
      'the link is read',
      5_000,
      async () => (await askBoth(machine)).join() === [BESIDE, BESIDE].join(),
    );
    const linked = await state(machine);
    await up(machine, FULL);
    expect(await askBoth(machine)).toEqual([INSIDE, INSIDE]);
    await down(machine);
    expect((await machine.type('readlink /etc/resolv.conf')).trim()).toBe(ofResolved);
    expect(await state(machine)).toBe(linked);
    await machine.must('ln', ['-sf', STUB, '/etc/resolv.conf']);
    expect(await askBoth(machine)).toEqual([BESIDE, BESIDE]);
  });

  test('has nothing of a client that was killed', async () => {
    await up(machine, FULL);
    await killForGood(machine);
    await machine.must('vpn-client', ['cleanup']);
    expect(await state(machine)).toBe(before);
    expect(await askBoth(machine)).toEqual([BESIDE, BESIDE]);
  });
});

describe.each([
  ['openresolv', 'openresolv', 'resolvconf'],
  ["Debian's resolvconf", 'resolvconf', 'file'],
] as const)('%s', (_, name, keeper) => {
  const host = name === 'openresolv' ? 'openresolv' : 'debian';
  /** resolv.conf as link and as text, and what the program remembers, with modes. */
  const everything = `ls -l --time-style=+ /etc/resolv.conf; cat /etc/resolv.conf
find -L /run/resolvconf -type f -exec stat -c '%n %a %s' {} + | sort`;
  let machine: Machine;
  let before: string;

  beforeAll(async () => {
    machine = machines.get(host)!;
    await machine.install(name);
    const input = `nameserver ${serverAddress(HOSTS.indexOf(host) + 1)}\n`;
    await machine.must('resolvconf', ['-a', 'eth0'], { input });
    before = await machine.type(everything);
    expect(before).toMatch(/resolvconf/);
  });

  test('asks the tunnel alone for everything, while it is up', async () => {
    const { dns } = await up(machine, FULL);
    expect(dns).toMatchObject({ keeper, problem: null });
    expect(await askBoth(machine)).toEqual([INSIDE, INSIDE]);
    const file = await machine.must('cat', ['/etc/resolv.conf']);
    expect(file.match(/^nameserver .*$/gm)).toEqual(['nameserver 192.168.1.1']);
    expect((await machine.must('stat', ['-L', '-c', '%a', '/etc/resolv.conf'])).trim()).toBe('644');
    await down(machine);
    expect(await machine.type(everything)).toBe(before);
    expect(await askBoth(machine)).toEqual([BESIDE, BESIDE]);
  });

  test('cannot ask it for some names only, and is left alone', async () => {
    const { dns } = await up(machine, SPLIT);
    expect(dns).toMatchObject({ keeper: null });
    expect(await machine.type(everything)).toBe(before);
    await down(machine);
  });

  test('keeps to the tunnel through updates of others, and takes them', async () => {
    const link = `nameserver ${serverAddress(HOSTS.indexOf(host) + 1)}\n`;
    await up(machine, FULL);
    const updates: [string[], string][] = [
      // Another link comes; a DHCP client renews a lease; an administrator has the file made anew.
      [['-a', 'eth1'], 'nameserver 192.0.2.1\n'],
      [['-a', 'eth0'], `search renewed.example\n${link}`],
      [['-u'], ''],
    ];
    for (const [args, input] of updates) {
      await machine.must('resolvconf', args, { input });
      const file = await machine.must('cat', ['/etc/resolv.conf']);
      expect(file.match(/^nameserver .*$/gm), args.join(' ')).toEqual(['nameserver 192.168.1.1']);
      expect(await askBoth(machine)).toEqual([INSIDE, INSIDE]);
    }
    await down(machine);
    const after = await machine.must('cat', ['/etc/resolv.conf']);
    expect(after).toContain('nameserver 192.0.2.1\n');
    expect(after).toContain('renewed.example');
    await machine.must('resolvconf', ['-a', 'eth0'], { input: link });
    await machine.must('resolvconf', ['-d', 'eth1']);
    expect(await machine.type(everything)).toBe(before);
  });

  test('has nothing of a client that was killed', async () => {
    await up(machine, FULL);
    await killForGood(machine);
    expect(await machine.type(everything)).not.toBe(before);
    await machine.must('vpn-client', ['cleanup']);
    expect(await machine.type(everything)).toBe(before);
    expect(await askBoth(machine)).toEqual([BESIDE, BESIDE]);
  });
});

/** Tunnels as services: what is put where, what systemd is told, and what is refused before. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { findPlace } from '../../client/place.ts';
import { ProfileStore } from '../../client/profile-store.ts';
import { installService, uninstallService, unitText } from '../../client/service.ts';
import { chooseTarget } from '../../client/target.ts';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import { type ErrorCode, ExitCode, VpnError } from '../../shared/errors.ts';
import { Output } from '../../shared/program.ts';
import { serveLocalSocket } from '../../shared/system/local-socket.ts';

const UNIT = 'vpn-client@.service';

let folder: string;
let said: string[];
/** What systemctl was called with. */
let calls: string[];
/** An argument of a call that fails. */
let failing: string;
let active: Set<string>;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-service-${process.pid}-`));
  [said, calls, failing, active] = [[], [], 'none', new Set()];
});
afterEach(() => rmSync(folder, { recursive: true }));

const units = () => join(folder, 'units');
const wants = (instance: string) => join(units(), 'multi-user.target.wants', instance);
const installed = (name: string) => join(folder, 'etc/clients', `${name}.conf`);
const place = () => findPlace({ state: join(folder, 'state'), run: folder }, {});
const output = () => {
  const stream = { write: (text: string) => said.push(...text.trimEnd().split('\n')) };
  const around = { argv: [], env: {}, stdout: stream, stderr: stream };
  return new Output(around, { json: false, quiet: false });
};

/** systemctl as far as it makes and removes links. */
const run = async (file: string, args: readonly string[]) => {
  if (args[0] === 'is-active') {
    if (active.has(args.at(-1)!)) return { stdout: '', stderr: '' };
    throw new VpnError('COMMAND_FAILED', 'systemctl is-active: 3', { cause: { exitCode: 3 } });
  }
  calls.push([file, ...args].join(' '));
  const link = wants(args.at(-1)!);
  if (args[0] === 'enable') {
    mkdirSync(join(link, '..'), { recursive: true });
    writeFileSync(link, '');
  }
  if (args[0] === 'disable') rmSync(link);
  if (args[0] === 'start') active.add(args.at(-1)!);
  if (args[0] === failing) throw new VpnError('COMMAND_FAILED', `systemctl ${failing}: no`);
  return { stdout: '', stderr: '' };
};
const host = (isBooted = true, program = '/opt/culvert/dist/client/cli.js') => ({
  units: { folder: units(), isBooted, run },
  profiles: join(folder, 'etc/clients'),
  paths: { node: '/usr/bin/node', program },
});
const install = (text: string, on = host()) => installService(text, place(), output(), on);
const uninstall = (text: string, on = host()) => uninstallService(text, output(), on);

function writeProfile(name: string, mode = 0o600): string {
  const file = join(folder, name);
  const own = `PrivateKey = ${keyToBase64(generatePrivateKey())}\nAddress = 10.0.0.2/24`;
  const peer = `PublicKey = ${keyToBase64(publicKeyOf(generatePrivateKey()))}`;
  writeFileSync(file, `[Interface]\n${own}\n[Peer]\n${peer}\nAllowedIPs = 10.0.0.0/24\n`, { mode });
  return file;
}

test('the unit names the programs of this installation', () => {
  const text = unitText({ node: '/usr/bin/node', program: '/opt/culvert vpn/100%/cli.js' });
  const command = '/usr/bin/node "/opt/culvert vpn/100%%/cli.js"';
  expect(text.match(/^ExecStart=.*$/gm)).toEqual([`ExecStart=${command} connect %i`]);
  expect(text).toContain('\nWantedBy=multi-user.target\n');
});

test('a profile is copied for root alone, enabled and started, and all but it is taken back', async () => {
  const file = writeProfile('office.conf');
  await install(file);
  expect(readFileSync(installed('office'), 'utf8')).toBe(readFileSync(file, 'utf8'));
  expect(statSync(installed('office')).mode & 0o777).toBe(0o600);
  expect(statSync(join(folder, 'etc/clients')).mode & 0o777).toBe(0o700);
  expect(statSync(join(folder, 'etc')).mode & 0o777).toBe(0o755);
  expect(readFileSync(join(units(), UNIT), 'utf8')).toMatch(/^ExecStart=.*cli\.js connect %i$/m);
  expect(statSync(join(units(), UNIT)).mode & 0o777).toBe(0o644);
  const instance = 'vpn-client@office.service';
  expect(calls.splice(0)).toEqual([
    'systemctl daemon-reload',
    `systemctl enable ${instance}`,
    `systemctl start ${instance}`,
  ]);
  expect(said.splice(0)).toEqual([
    `written: ${installed('office')} (mode 0600)`,
    `written: ${join(units(), UNIT)}`,
    `enabled and started: ${instance}`,
    'to undo: vpn-client service uninstall office',
  ]);

  // Once more changes nothing of the profile; another instance keeps the unit in place.
  await install(file);
  await install(writeProfile('home.conf'));
  await uninstall('home');
  expect(existsSync(join(units(), UNIT))).toBe(true);
  [said, calls] = [[], []];
  await uninstall(file);
  expect(calls).toEqual([`systemctl disable --now ${instance}`, 'systemctl daemon-reload']);
  expect(existsSync(join(units(), UNIT))).toBe(false);
  expect(said).toEqual([
    `stopped and disabled: ${instance}`,
    `removed: ${join(units(), UNIT)}`,
    `kept: ${installed('office')}, which has its key`,
  ]);
  expect(existsSync(installed('office'))).toBe(true);
});

test('who runs already is not restarted, and is named when the unit is another one now', async () => {
  const [office, home] = ['vpn-client@office.service', 'vpn-client@home.service'];
  const moved = host(true, '/opt/other/cli.js');
  const file = writeProfile('office.conf');
  await install(file);
  said = [];
  await install(file);
  expect(said).toContain(`enabled, and running already: ${office}`);
  expect(said.join('\n')).not.toMatch(/restart/);
  said = [];
  await install(writeProfile('home.conf'));
  expect(said.join('\n')).not.toMatch(/running|restart/);
  await install(file, moved);
  const way = `\`systemctl restart ${home} ${office}\``;
  const needed = `restart needed: ${way}; until then the former unit is in force`;
  expect(said).toContain(needed);
  // Another instance is new, but the unit is for all of them.
  said = [];
  await install(writeProfile('third.conf'));
  expect(said).toContain(needed);
  expect(calls.filter((call) => call.includes('restart'))).toEqual([]);
});

test('without systemd files are put in place, and that is said', async () => {
  await install(writeProfile('office.conf'), host(false));
  expect([existsSync(installed('office')), existsSync(join(units(), UNIT))]).toEqual([true, true]);
  expect(said.join('\n')).toMatch(/systemd does not run here: `systemctl enable vpn-client@of/);
  await uninstall('office', host(false));
  expect([calls, existsSync(join(units(), UNIT))]).toEqual([[], false]);
});

test('a service that does not start is named with what says why', async () => {
  failing = 'start';
  await expect(install(writeProfile('office.conf'))).rejects.toMatchObject({
    code: 'COMMAND_FAILED',
    hint: '`journalctl -u vpn-client@office.service` says why; it stays enabled.',
  });
});

const REFUSED: readonly [string, () => string, ErrorCode, keyof typeof ExitCode][] = [
  ['a server that is not remembered', () => 'vpn.example:6000', 'PROFILE_UNKNOWN', 'config'],
  ['a profile that is not there', () => join(folder, 'none.conf'), 'PROFILE_UNKNOWN', 'config'],
  ['no profile', () => notProfile(), 'PROFILE_INVALID', 'config'],
  [
    'a key that others can read',
    () => writeProfile('office.conf', 0o644),
    'KEY_FILE_READABLE_BY_OTHERS',
    'config',
  ],
  ['a name that systemd would change', () => writeProfile('my office.conf'), 'USAGE', 'usage'],
  ['a name that is an address', () => writeProfile('vpn.example:6000.conf'), 'USAGE', 'usage'],
  ['a name that is an option', () => writeProfile('--full.conf'), 'USAGE', 'usage'],
  ['a name of another profile', () => anotherProfile(), 'KEY_FILE_EXISTS', 'config'],
];

test.each(REFUSED)('%s is refused before anything is changed', async (_, text, code, exit) => {
  const target = text();
  await expect(install(target)).rejects.toMatchObject({ code, exitCode: ExitCode[exit] });
  expect([calls, existsSync(units())]).toEqual([[], false]);
});

function notProfile(): string {
  const file = join(folder, 'office.conf');
  writeFileSync(file, 'hello\n', { mode: 0o600 });
  return file;
}

function anotherProfile(): string {
  mkdirSync(join(folder, 'etc/clients'), { recursive: true });
  writeFileSync(installed('office'), 'another\n');
  return writeProfile('office.conf');
}

test('a tunnel that is up by other means is to be ended first', async () => {
  const file = writeProfile('office.conf');
  const status = () => ({ tunnel: 'office', state: 'connected' });
  const socket = await serveLocalSocket(join(folder, 'client-office.sock'), { status });
  try {
    await expect(install(file)).rejects.toMatchObject({
      code: 'ALREADY_RUNNING',
      exitCode: ExitCode.alreadyRunning,
      hint: expect.stringContaining('vpn-client disconnect office'),
    });
    expect([calls, existsSync(installed('office'))]).toEqual([[], false]);
  } finally {
    await socket.close();
  }
});

test('what is no service is not taken away', async () => {
  await install(writeProfile('office.conf'));
  calls = [];
  const refused = { code: 'SERVICE_UNKNOWN', exitCode: ExitCode.other };
  await expect(uninstall('home')).rejects.toMatchObject(refused);
  await expect(uninstall('a b')).rejects.toMatchObject({ code: 'USAGE' });
  expect([calls, existsSync(join(units(), UNIT))]).toEqual([[], true]);
});

test('a folder with the name of a profile is not taken for it', () => {
  const choose = (text: string) => {
    return chooseTarget({ text, invite: undefined, now: 0 }, new ProfileStore(folder));
  };
  // A service runs in /, where there is /home.
  const before = process.cwd();
  mkdirSync(join(folder, 'home'));
  writeProfile('office');
  process.chdir(folder);
  try {
    expect(choose('office')).toMatchObject({ target: { path: join(folder, 'office') } });
    expect(() => choose('home')).toThrow('home is neither HOST:PORT nor a file');
  } finally {
    process.chdir(before);
  }
});

test('where the server has the default directories for its user, the client has others', () => {
  const apart = () => false;
  expect(findPlace({}, {}, () => true)).toEqual({
    stateDirectory: '/var/lib/culvert',
    runDirectory: '/run/culvert',
  });
  expect(findPlace({}, {}, apart)).toEqual({
    stateDirectory: '/var/lib/culvert-client',
    runDirectory: '/run/culvert-client',
  });
  const named = { stateDirectory: '/s', runDirectory: '/r' };
  expect(findPlace({ state: '/s' }, { CULVERT_RUN: '/r' }, apart)).toEqual(named);
});

test('a program in a folder that the service cannot see is named', async () => {
  await install(writeProfile('office.conf'), host(true, '/tmp/culvert/dist/client/cli.js'));
  const why = 'the service cannot read /tmp/culvert/dist/client/cli.js: install it in /opt';
  expect(said).toContain(`warning: ${why}`);
});

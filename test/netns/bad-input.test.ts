/**
 * What operators get wrong: each fault has its own code, exit code and message, and changes
 * nothing, neither on the host nor in the state directory.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server
 */
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet, type Net } from './harness.ts';
import type { Outcome } from './program.ts';
import { layStar } from './topology.ts';
import { startEcho } from './traffic.ts';
import { Client, commandLine, PORT, Server, vpn } from './vpn.ts';
import { delay } from './waiting.ts';

interface Fault {
  readonly code: string;
  readonly exit: number;
  /** The message names what is wrong. */
  readonly message: RegExp;
}

/** Checks the JSON error on stdout, and that no stack trace is shown. */
function expectFault({ code, stdout, stderr }: Outcome, fault: Fault): void {
  expect(code, stdout + stderr).toBe(fault.exit);
  const { error } = JSON.parse(stdout) as {
    error: { code: string; message: string; hint: string };
  };
  expect(error.code).toBe(fault.code);
  expect(error.message).toMatch(fault.message);
  expect(error.hint).not.toBe('');
  expect(stdout + stderr).not.toMatch(/^\s+at .*:\d+:\d+/m);
}

/** Name, mode and content of every file below a folder. */
function fingerprint(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isFile() && !/-(wal|shm)$|lock/.test(path))
    .map((path) => {
      const hash = createHash('sha256').update(readFileSync(path)).digest('hex');
      return `${path} ${statSync(path).mode.toString(8)} ${hash}`;
    })
    .sort();
}

/** `vpn-server start` with a fault: it must end by itself, having changed nothing. */
async function expectStartFault(
  net: Net,
  server: Server,
  flags: readonly string[],
  fault: Fault,
): Promise<void> {
  const before = fingerprint(server.instance.state);
  const listen = flags.includes('--listen') ? [] : ['--listen', String(PORT)];
  const outcome = await server.command('start', ...listen, '--nat', 'off', ...flags);
  expectFault(outcome, fault);
  if (before.length > 0) expect(fingerprint(server.instance.state)).toEqual(before);
  expect(net.difference('server')).toEqual([]);
}

/** `vpn-client connect` with a fault. */
async function expectConnectFault(net: Net, args: readonly string[], fault: Fault): Promise<void> {
  const client = new Client(net, 'a');
  const before = fingerprint(client.instance.state);
  const outcome = await client.command('connect', ...args);
  expectFault(outcome, fault);
  expect(fingerprint(client.instance.state)).toEqual(before);
  expect(net.difference('a')).toEqual([]);
}

async function inPair(body: (net: Net, server: Server) => Promise<void>): Promise<void> {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    await body(net, new Server(net));
  });
}

test('no /dev/net/tun', async () => {
  await inPair(async (net, server) => {
    const [node, args] = commandLine('server', ['start', ...server.instance.flags, '--json']);
    const script = 'mount -t tmpfs none /dev/net && exec "$@"';
    const outcome = await net.run('server', 'unshare', [
      '-m',
      'sh',
      '-c',
      script,
      'sh',
      node,
      ...args,
    ]);
    expectFault(outcome, { code: 'NO_TUN_DEVICE', exit: 4, message: /\/dev\/net\/tun/ });
    expect(net.difference('server')).toEqual([]);
  });
});

test('no CAP_NET_ADMIN', async () => {
  await inPair(async (net, server) => {
    const [node, args] = commandLine('server', ['start', ...server.instance.flags, '--json']);
    const drop = ['--bounding-set=-net_admin', '--inh-caps=-net_admin', node, ...args];
    const outcome = await net.run('server', 'setpriv', drop);
    expectFault(outcome, { code: 'NO_NET_ADMIN', exit: 4, message: /CAP_NET_ADMIN/ });
    expect(net.difference('server')).toEqual([]);
  });
});

test('port in use', async () => {
  await inPair(async (net, server) => {
    await startEcho(net, 'server', '0.0.0.0', PORT);
    const fault = { code: 'PORT_IN_USE', exit: 1, message: /6000/ };
    await expectStartFault(net, server, [], fault);
  });
});

test('device name taken, by another kind of link and by a running tunnel', async () => {
  await inPair(async (net, server) => {
    const taken = { code: 'DEVICE_TAKEN', exit: 1, message: /s1/ };
    await expectStartFault(net, server, ['--dev', 's1'], taken);
    await new Server(net, 'server', 'other').start('--dev', 'tunnel7');
    const before = net.difference('server');
    const flags = ['--dev', 'tunnel7', '--listen', '6001', '--network', '10.9.0.0/24'];
    const outcome = await server.command('start', ...flags);
    expectFault(outcome, { code: 'DEVICE_TAKEN', exit: 1, message: /tunnel7/ });
    expect(net.difference('server')).toEqual(before);
  });
});

test('second server on the same state directory', async () => {
  await inPair(async (net, server) => {
    await server.start();
    const other = ['--state', server.instance.state, '--run', join(net.directory, 'elsewhere')];
    const args = ['start', ...other, '--listen', '6001', '--json'];
    const outcome = await vpn(net, 'server', 'server', args);
    expectFault(outcome, { code: 'ALREADY_RUNNING', exit: 8, message: /running/ });
    expect((await server.command('status')).code).toBe(0);
  });
});

test('malformed identity key, and one that others can read', async () => {
  await inPair(async (net, server) => {
    await server.start();
    await server.program?.stop();
    const file = join(server.instance.state, 'identity.key');
    expect(statSync(file).mode & 0o777).toBe(0o600);
    chmodSync(file, 0o644);
    const open = { code: 'KEY_FILE_READABLE_BY_OTHERS', exit: 5, message: /identity\.key/ };
    await expectStartFault(net, server, [], open);
    chmodSync(file, 0o600);
    const key = readFileSync(file, 'utf8');
    writeFileSync(file, 'not a key\n');
    const malformed = { code: 'KEY_MALFORMED', exit: 5, message: /identity\.key/ };
    await expectStartFault(net, server, [], malformed);
    writeFileSync(file, (await vpn(net, 'server', 'keygen', ['genkey'])).stdout);
    const other = { code: 'IDENTITY_MISMATCH', exit: 5, message: /identity/ };
    await expectStartFault(net, server, [], other);
    writeFileSync(file, key);
    await server.start();
  });
});

test('corrupt store', async () => {
  await inPair(async (net, server) => {
    await server.start();
    await server.program?.stop();
    const folder = server.instance.state;
    const store = readdirSync(folder).find((name) => /\.(db|sqlite3?)$/.test(name));
    expect(store).toBeDefined();
    writeFileSync(join(folder, store ?? ''), 'this was a database once\n'.repeat(200));
    const fault = { code: 'STORE_CORRUPT', exit: 1, message: /store|database/i };
    await expectStartFault(net, server, [], fault);
  });
});

test('bad address ranges and other settings of the server', async () => {
  await inPair(async (net, server) => {
    const config = (message: RegExp) => ({ code: 'CONFIG_INVALID', exit: 5, message });
    await expectStartFault(
      net,
      server,
      ['--network', '192.168.1.0/33'],
      config(/192\.168\.1\.0\/33/),
    );
    await expectStartFault(net, server, ['--network', 'home'], config(/home/));
    await expectStartFault(net, server, ['--network', '10.0.0.0/32'], config(/10\.0\.0\.0\/32/));
    await expectStartFault(net, server, ['--address', '10.0.0.1'], config(/10\.0\.0\.1/));
    await expectStartFault(net, server, ['--listen', '70000'], config(/70000/));
    const file = join(net.directory, 'server.yaml');
    writeFileSync(file, 'listen: 6000\nnetwrk: 10.0.0.0/24\n');
    const unknown = config(/server\.yaml:2:1 .*netwrk.*network/s);
    await expectStartFault(net, server, ['--config', file], unknown);
  });
});

test('unknown commands and options', async () => {
  await inPair(async (net) => {
    for (const program of ['server', 'client', 'keygen'] as const) {
      for (const args of [['conect'], ['--nonsense'], []]) {
        const { code, stdout, stderr } = await vpn(net, 'server', program, args);
        expect([program, ...args, code]).toEqual([program, ...args, 2]);
        expect(stdout + stderr).toMatch(/--help|Usage/);
      }
    }
    const { stderr } = await vpn(net, 'server', 'client', ['conect']);
    expect(stderr).toMatch(/connect/);
  });
});

test('malformed, damaged and expired invites', async () => {
  await inPair(async (net, server) => {
    await server.start();
    const invite = await server.invite('late', 1, '--expires', '1s');
    const middle = Math.floor(invite.length / 2);
    const other = invite[middle] === 'A' ? 'B' : 'A';
    const damaged = invite.slice(0, middle) + other + invite.slice(middle + 1);
    await expectConnectFault(net, ['--invite', 'hello'], {
      ...{ code: 'INVITE_NOT_RECOGNISED', exit: 2, message: /invite/ },
    });
    await expectConnectFault(net, ['--invite', damaged], {
      ...{ code: 'INVITE_DAMAGED', exit: 2, message: /invite/ },
    });
    await delay(2_000);
    await expectConnectFault(net, ['--invite', invite], {
      ...{ code: 'INVITE_EXPIRED', exit: 7, message: /expired/ },
    });
    const missing = join(net.directory, 'no-such-file');
    const { code } = await new Client(net, 'a').command('connect', '--invite-file', missing);
    expect([2, 5]).toContain(code);
  });
});

test('profiles that cannot be', async () => {
  await inPair(async (net) => {
    const key = (await vpn(net, 'a', 'keygen', ['genkey'])).stdout.trim();
    const open = (await vpn(net, 'a', 'keygen', ['pubkey'], { input: key })).stdout.trim();
    const peer = `[Peer]\nPublicKey = ${open}\nEndpoint = 10.77.1.1:6000\nAllowedIPs = 10.0.0.0/24\n`;
    const own = `[Interface]\nPrivateKey = ${key}\nAddress = 10.0.0.2/24\n`;
    const file = join(net.directory, 'office.conf');
    const profile = async (text: string, fault: Fault, mode = 0o600) => {
      writeFileSync(file, text);
      chmodSync(file, mode);
      await expectConnectFault(net, [file], fault);
    };
    const invalid = (message: RegExp) => ({ code: 'PROFILE_INVALID', exit: 5, message });
    await profile(`[Interface]\nPrivateKey = short\n${peer}`, {
      ...{ code: 'KEY_MALFORMED', exit: 5, message: /office\.conf:2/ },
    });
    await profile(`${own}Adress = 10.0.0.3/24\n${peer}`, invalid(/office\.conf:4.*Address/s));
    await profile(
      `${own.replace('/24', '/99')}${peer}`,
      invalid(/office\.conf:3.*10\.0\.0\.2\/99/s),
    );
    await profile(own, invalid(/peer/i));
    await profile(
      own + peer,
      { code: 'KEY_FILE_READABLE_BY_OTHERS', exit: 5, message: /office\.conf/ },
      0o644,
    );
    const unknown = { code: 'PROFILE_UNKNOWN', exit: 5, message: /nowhere\.example:6000/ };
    await expectConnectFault(net, ['nowhere.example:6000'], unknown);
  });
});

test('a server that does not answer', async () => {
  await inPair(async (net, server) => {
    await server.start();
    const invite = await server.invite('a', 1);
    await server.program?.stop();
    const client = new Client(net, 'a');
    const outcome = await client.command('connect', '--invite', invite, '--timeout', '3');
    expectFault(outcome, { code: 'SERVER_UNREACHABLE', exit: 6, message: /10\.77\.1\.1:6000/ });
    expect(net.difference('a')).toEqual([]);
    // Nothing is lost: the same invite is good when the server is back.
    await server.start();
    expect(await client.enrol(invite)).toBe('192.168.1.2');
  });
});

test("the client's own key is gone, or open to others", async () => {
  await inPair(async (net, server) => {
    await server.start();
    const client = new Client(net, 'a');
    await client.enrol(await server.invite('a', 1));
    await client.program?.stop();
    const at = `10.77.1.1:${PORT}`;
    const file = join(client.instance.state, 'clients', `10.77.1.1_${PORT}`, 'client.key');
    chmodSync(file, 0o644);
    await expectConnectFault(net, [at], {
      ...{ code: 'KEY_FILE_READABLE_BY_OTHERS', exit: 5, message: /client\.key/ },
    });
    rmSync(file);
    await expectConnectFault(net, [at], {
      ...{ code: 'KEY_FILE_UNUSABLE', exit: 5, message: /client\.key does not exist/ },
    });
  });
});

test('commands to programs that do not run', async () => {
  await inPair(async (net, server) => {
    expectFault(await server.command('status'), {
      ...{ code: 'NOT_RUNNING', exit: 3, message: /not running|no .*server/i },
    });
    expectFault(await new Client(net, 'a').command('status'), {
      ...{ code: 'NOT_RUNNING', exit: 3, message: /not running|no .*client|not connected/i },
    });
    expectFault(await server.command('stop'), {
      ...{ code: 'NOT_RUNNING', exit: 3, message: /not running|no .*server/i },
    });
  });
});

test('a key that is none', async () => {
  await inNet(['a'], async (net) => {
    mkdirSync(join(net.directory, 'empty'));
    const { code, stdout, stderr } = await vpn(net, 'a', 'keygen', ['pubkey'], { input: 'x\n' });
    expect(code).toBe(5);
    expect(stdout).toBe('');
    expect(stderr).toMatch(/key/);
  });
});

/** `vpn-client cleanup` with the journals of several clients; needs the privilege it asks for. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cleanUp } from '../../client/cleanup.ts';
import { placeOfTunnel } from '../../client/place.ts';
import { resolverFile } from '../../client/resolver-file.ts';
import { VpnError } from '../../shared/errors.ts';
import { acquireInstanceLock } from '../../shared/system/instance-lock.ts';
import { Journal } from '../../shared/system/journal.ts';
import { serveLocalSocket } from '../../shared/system/local-socket.ts';
import { collectOutput } from './collected-output.ts';
import { MadeUpHost } from './made-up-host.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-cleanup-${process.pid}-`));
});
afterEach(() => rmSync(folder, { recursive: true }));

const asRoot = test.runIf(process.getuid?.() === 0);

/** A host with `resolver` changed by the client `b`. */
function setUp() {
  const place = { stateDirectory: join(folder, 'state'), runDirectory: folder };
  const resolver = join(folder, 'resolv.conf');
  writeFileSync(resolver, 'as before');
  new Journal(placeOfTunnel(place, 'b').journalPath).replaceFile(resolver, 'ours');
  const { said, shown, output } = collectOutput();
  const host = new MadeUpHost();
  const resolvConf = join(folder, 'etc-resolv.conf');
  const namespaceFiles = join(folder, 'netns');
  const options = { run: host.run, resolvConf, namespaceFiles };
  const clean = () => cleanUp(place, false, output, options);
  const isOurs = () => readFileSync(resolver, 'utf8');
  return { place, host, resolvConf, namespaceFiles, said, shown, clean, resolver: isOurs };
}

asRoot('a damaged journal keeps nobody else from being cleaned up', async () => {
  const { place, said, clean, resolver } = setUp();
  writeFileSync(placeOfTunnel(place, 'a').journalPath, '{damaged');
  expect([await clean(), resolver()]).toEqual([1, 'as before']);
  expect(said[0]).toMatch(/client-a\.journal is damaged/);
  expect(await clean()).toBe(0);
});

asRoot.each([
  ['its end', (text: string) => text.slice(0, -20)],
  ['its end, and something else is there', (text: string) => `${text.slice(0, -20)}garbage\n`],
])('of a journal that has lost %s, the beginning is undone', async (_what, damage) => {
  const { place, said, clean, resolver } = setUp();
  const { journalPath } = placeOfTunnel(place, 'b');
  new Journal(journalPath).replaceFile(join(folder, 'hosts'), 'ours');
  const damaged = damage(readFileSync(journalPath, 'utf8'));
  writeFileSync(journalPath, damaged);
  expect([await clean(), resolver()]).toEqual([1, 'as before']);
  expect(said.join('\n')).toMatch(/what can be read of it is undone/);
  expect(readFileSync(`${journalPath}.damaged`, 'utf8')).toBe(damaged);
  // The way is free for the next connection.
  expect(new Journal(journalPath).pending).toEqual([]);
  // Another damage takes nothing from what was set aside.
  writeFileSync(journalPath, '{again');
  expect(await clean()).toBe(1);
  expect(readFileSync(`${journalPath}.damaged`, 'utf8')).toBe(damaged);
  expect(readFileSync(`${journalPath}.damaged.2`, 'utf8')).toBe('{again');
  expect(said.at(-1)).toContain(`all of it is in ${journalPath}.damaged.2`);
});

/** What a full tunnel under protection with an overlap leaves, beside what is not its own. */
function leaveBehind(host: MadeUpHost): { readonly others: readonly string[] } {
  const others: [table: string, chains: string[]][] = [
    ['culvert-lockdown-cvc1', ['outgoing', 'forwarded', 'incoming']],
    ['culvert-cvs1', ['guard', 'forward', 'postrouting']],
    ['culvert-protect-cvc2', ['outgoing', 'forwarded']],
    // The guard of a device with that name.
    ['culvert-protect-x', ['incoming']],
    ['culvert', ['incoming']],
    ['filter', ['outgoing']],
  ];
  host.links = ['lo', 'eth0', 'cvc2', 'protect-x'];
  for (const [table, chains] of others) host.tables.set(table, chains);
  host.tables.set('culvert-protect-cvc1', ['outgoing', 'forwarded', 'incoming']);
  host.tables.set('culvert-query-cvc1-40000', ['queries']);
  host.tables.set('culvert-cvc1', ['incoming']);
  host.arpTables.set('culvert-cvc1', ['incoming']);
  host.arpTables.set('culvert-cvc2', ['incoming']);
  host.arpTables.set('mine', ['incoming']);
  const everything = (priority: number, table: string) => ({ priority, not: null, table });
  const local = (priority: number) => ({ priority, table: 'main', suppress_prefixlen: 0 });
  host.rules = {
    '-4': [
      { priority: 32_759, src: '10.0.0.9', dst: '10.0.0.0', table: 'main' },
      ...[{ priority: 32_760, dst: '10.0.0.0', table: '52015' }, local(32_761)],
      ...[everything(32_762, '52014'), local(32_764), everything(32_765, '52016')],
      // Of somebody else, who likes our numbers.
      { priority: 40, table: '52020' },
    ],
    '-6': [everything(32_762, '52014'), everything(32_765, '52016')],
  };
  host.routes = {
    '-4': [
      { type: 'throw', dst: '10.0.0.1', table: '52015' },
      { dst: 'default', dev: 'cvc2', table: '52016' },
      { type: 'unreachable', dst: 'default', table: '52020' },
    ],
    '-6': [
      { type: 'unreachable', dst: 'default', dev: 'lo', table: '52014' },
      { type: 'unreachable', dst: 'default', dev: 'lo', table: '52016' },
    ],
  };
  return { others: others.map(([table]) => table) };
}

asRoot('what is left of a client without a journal goes, and nothing of anybody else', async () => {
  const { place, host, said, shown, clean } = setUp();
  const { others } = leaveBehind(host);
  writeFileSync(placeOfTunnel(place, 'b').journalPath, '{damaged');
  expect(await clean()).toBe(1);
  expect(said[0]).toMatch(/client-b\.journal is damaged/);
  expect([...host.tables.keys()]).toEqual(others);
  expect([...host.arpTables.keys()]).toEqual(['culvert-cvc2', 'mine']);
  expect(host.changes).toEqual([
    'ip -4 rule del priority 32760 lookup 52015',
    'ip -4 rule del priority 32759 lookup main',
    'ip -4 rule del priority 32762 lookup 52014',
    'ip -4 rule del priority 32761 lookup main',
    'ip -4 route flush table 52015',
    'ip -6 rule del priority 32762 lookup 52014',
    'ip -6 route flush table 52014',
    'nft delete table inet culvert-protect-cvc1',
    'nft delete table inet culvert-query-cvc1-40000',
    'nft delete table inet culvert-cvc1',
    'nft delete table arp culvert-cvc1',
  ]);
  expect(await clean()).toBe(0);
  expect(shown.at(-1)?.text).toBe('nothing to undo');
  // The journal may be gone altogether.
  leaveBehind(host);
  expect(await clean()).toBe(0);
  expect(shown.at(-1)?.text).toContain(
    'undone: table inet culvert-protect-cvc1, of a client that is gone',
  );
});

asRoot('what cannot be removed is named, with the command', async () => {
  const { host, said, shown, clean } = setUp();
  await clean();
  host.tables.set('culvert-protect-cvc1', ['outgoing']);
  host.refuse = () => {
    throw new Error('Operation not permitted');
  };
  expect(await clean()).toBe(1);
  expect(shown.at(-1)?.value).toEqual({ undone: [], failed: ['table inet culvert-protect-cvc1'] });
  expect(said.join()).toMatch(/not permitted; try `nft delete table inet culvert-protect-cvc1`/);
});

asRoot(
  'a resolver file of a tunnel that is gone is named; with a tunnel it may be its own',
  async () => {
    const { host, resolvConf, said, clean } = setUp();
    await clean();
    writeFileSync(
      resolvConf,
      '# Written by vpn-client while its tunnel is up; it puts back what was here.\n',
    );
    host.tunnels = ['cvc7'];
    expect(await clean()).toBe(0);
    host.tunnels = [];
    expect(await clean()).toBe(1);
    expect(said.at(-1)).toMatch(/etc-resolv\.conf still is that of a tunnel that is gone/);
    // As the doctor says.
    expect(said.at(-1)).toMatch(/\. Put back what this host had: a link, or/);
  },
);

asRoot('what a resolver file says was in its place is put back without a journal', async () => {
  const { resolvConf, said, clean } = setUp();
  await clean();
  const written = (): void => {
    const text = resolverFile(resolvConf, undefined, 'nameserver 10.9.0.1\n');
    rmSync(resolvConf, { force: true });
    writeFileSync(resolvConf, text);
  };
  // Bytes that are no UTF-8, no end of the last line, and lines that look like ours.
  const file = Buffer.from('# \xe4\nnameserver 192.0.2.1\n\n#|x\n# Before: missing\nend', 'latin1');
  for (const content of [file, Buffer.from(''), Buffer.from('nameserver 192.0.2.1\n')]) {
    writeFileSync(resolvConf, content);
    chmodSync(resolvConf, 0o640);
    written();
    expect(await clean()).toBe(0);
    expect(readFileSync(resolvConf).equals(content)).toBe(true);
    expect(statSync(resolvConf).mode & 0o777).toBe(0o640);
  }
  rmSync(resolvConf);
  symlinkSync('../run/stub.conf', resolvConf);
  written();
  expect([await clean(), readlinkSync(resolvConf)]).toEqual([0, '../run/stub.conf']);
  rmSync(resolvConf);
  written();
  expect([await clean(), existsSync(resolvConf)]).toEqual([0, false]);
  expect(said.join()).not.toMatch(/still is that/);
});

asRoot('a resolver file of a tunnel that somebody has edited is his, and named', async () => {
  const { resolvConf, said, clean } = setUp();
  await clean();
  writeFileSync(resolvConf, 'nameserver 192.0.2.1\n');
  const text = resolverFile(resolvConf, undefined, 'nameserver 10.9.0.1\n');
  const appended = `${text}nameserver 192.0.2.2\n`;
  for (const edited of [appended, text.replace('10.9.0.1', '192.0.2.2')]) {
    writeFileSync(resolvConf, edited);
    expect(await clean()).toBe(1);
    expect(readFileSync(resolvConf, 'utf8')).toBe(edited);
    expect(said.at(-1)).toMatch(/somebody has edited it since.*its last lines tell what/);
  }
  // As that says.
  writeFileSync(resolvConf, appended.slice(appended.indexOf('\n') + 1));
  expect(await clean()).toBe(0);
});

const NOTE = '# Written by vpn-client while its tunnel is up; it puts back what was here.\n';
const lo = (runDirectory?: string) => ({
  ifname: 'lo',
  ...(runDirectory === undefined ? {} : { ifalias: `vpn-client --run ${runDirectory}` }),
});
const tun = { ifname: 'cvc9', linkinfo: { info_kind: 'tun' } };

/** The resolver file of a namespace. */
function writeNames(directory: string, netns: string, text: string): string {
  mkdirSync(join(directory, netns), { recursive: true });
  const file = join(directory, netns, 'resolv.conf');
  writeFileSync(file, text);
  return file;
}

asRoot('namespaces and their files of a client without a journal go, no others', async () => {
  const { place, host, namespaceFiles, said, shown, clean } = setUp();
  await clean();
  const names = (netns: string, text: string) => writeNames(namespaceFiles, netns, text);
  const mine = `${NOTE}# vpn-client --run ${place.runDirectory}\nnameserver 10.9.0.1\n`;
  const gone = [
    names('office', mine),
    // Of a namespace that a reboot has taken, and of one that another program made.
    names('rebooted', mine),
    names('foreign', mine),
  ];
  writeFileSync(join(namespaceFiles, 'foreign', 'hosts'), '');
  host.namespaces.set('office', [lo(place.runDirectory)]);
  host.namespaces.set('foreign', [lo(), { ifname: 'eth0', linkinfo: { info_kind: 'veth' } }]);
  const kept = [
    names('used', mine),
    names('closed', mine),
    names('own', 'nameserver 192.0.2.1\n'),
    // That of a host that lives in a namespace, with a journal that is elsewhere.
    names('host', `${NOTE}nameserver 10.9.0.1\n`),
    names('other', mine.replace(place.runDirectory, '/run/other')),
  ];
  host.namespaces.set('used', [lo(place.runDirectory), tun]);
  host.namespaces.set('closed', null);
  host.namespaces.set('own', [lo()]);
  host.namespaces.set('host', [lo()]);
  host.namespaces.set('other', [lo('/run/other')]);
  expect(await clean()).toBe(0);
  const undone = ['namespace office', ...gone.map((file) => `file ${file}`)];
  expect(shown.at(-1)?.text.split('\n').sort()).toEqual(
    undone.map((what) => `undone: ${what}, of a client that is gone`).sort(),
  );
  expect(host.changes).toEqual(['ip netns delete office']);
  expect(gone.map((file) => existsSync(file))).toEqual([false, false, false]);
  expect(kept.every((file) => existsSync(file))).toBe(true);
  expect(readdirSync(namespaceFiles).sort()).toEqual(
    ['closed', 'foreign', 'host', 'other', 'own', 'used'].sort(),
  );
  expect(said.at(-1)).toContain(`file ${kept.at(-1)}`);
  expect(said.at(-1)).toMatch(/namespace other; `vpn-client cleanup --run \/run\/other` undoes it/);
  expect(await clean()).toBe(0);
  expect(shown.at(-1)?.text).toBe('nothing to undo');
});

asRoot('what a client that runs is about to use in a namespace stays', async () => {
  const { place, host, namespaceFiles, clean } = setUp();
  await clean();
  const running = placeOfTunnel(place, 'a');
  const mark = lo(place.runDirectory);
  host.namespaces.set('office', [mark]);
  host.namespaces.set('left', [mark]);
  writeNames(namespaceFiles, 'left', `${NOTE}# vpn-client --run ${place.runDirectory}\n`);
  const status = () => ({ tunnel: 'a', netns: 'office' });
  const socket = await serveLocalSocket(running.socketPath, { status });
  try {
    expect(await clean()).toBe(0);
    expect([...host.namespaces.keys()]).toEqual(['office']);
    expect(existsSync(namespaceFiles)).toBe(false);
  } finally {
    await socket.close();
  }
});

asRoot('a client that only begins keeps its journal and its rules', async () => {
  const { place, host, said, clean, resolver } = setUp();
  host.tables.set('culvert-protect-cvc1', ['outgoing']);
  const socket = await serveLocalSocket(placeOfTunnel(place, 'b').socketPath, {
    status: () => {
      throw new VpnError('NOT_RUNNING', 'it has no device yet');
    },
  });
  try {
    expect([await clean(), resolver()]).toEqual([1, 'ours']);
  } finally {
    await socket.close();
  }
  expect(said[0]).toMatch(/a client just begins or is ending: run this again/);
  expect([...host.tables.keys()]).toEqual(['culvert-protect-cvc1']);
  expect([await clean(), resolver(), host.tables.size]).toEqual([0, 'as before', 0]);
});

asRoot('a client whose device comes while it is asked keeps its rules', async () => {
  const { place, host, clean, resolver } = setUp();
  host.tables.set('culvert-protect-cvc1', ['outgoing']);
  const status = () => {
    host.links = [...host.links, 'cvc1'];
    return {};
  };
  const socket = await serveLocalSocket(placeOfTunnel(place, 'b').socketPath, { status });
  try {
    await expect(clean()).rejects.toThrow('the client of b is running');
    expect([resolver(), host.tables.size]).toEqual(['ours', 1]);
  } finally {
    await socket.close();
  }
});

asRoot(
  'a client that runs is left alone, and alone with its journal a reason to refuse',
  async () => {
    const { place, host, said, clean, resolver } = setUp();
    const other = placeOfTunnel(place, 'a');
    new Journal(other.journalPath).replaceFile(join(folder, 'hosts'), 'ours');
    const socket = await serveLocalSocket(other.socketPath, { status: () => ({}) });
    try {
      expect([await clean(), resolver()]).toEqual([0, 'as before']);
      expect(said[0]).toMatch(/left alone: the client of a/);
      expect(new Journal(other.journalPath).pending).toHaveLength(1);
      await expect(clean()).rejects.toMatchObject({ code: 'ALREADY_RUNNING' });
      // Somebody has removed it: there is something to undo all the same, by the client alone.
      rmSync(other.journalPath);
      await expect(clean()).rejects.toMatchObject({
        message: 'the client of a is running',
        hint: expect.stringContaining('vpn-client disconnect a'),
      });
      host.tables.set('culvert-protect-cvc1', ['outgoing']);
      expect([await clean(), host.tables.size]).toEqual([0, 0]);
    } finally {
      await socket.close();
    }
  },
);

asRoot('the sockets of clients that are gone go, those of others stay', async () => {
  const { place, clean } = setUp();
  const [gone, there] = [
    placeOfTunnel(place, 'b').socketPath,
    placeOfTunnel(place, 'c').socketPath,
  ];
  const script =
    "require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))";
  spawnSync(process.execPath, ['-e', script, gone]);
  expect(existsSync(gone)).toBe(true);
  const socket = await serveLocalSocket(there, { status: () => ({}) });
  try {
    expect(await clean()).toBe(0);
    expect([existsSync(gone), existsSync(there)]).toEqual([false, true]);
  } finally {
    await socket.close();
  }
});

asRoot('two at once do not undo the same journal', async () => {
  const { place, clean, resolver } = setUp();
  const other = acquireInstanceLock(place.runDirectory, 'cleanup');
  await expect(clean()).rejects.toMatchObject({
    code: 'ALREADY_RUNNING',
    message: `another cleanup (pid ${process.pid}) is running on ${place.runDirectory}`,
    hint: expect.stringMatching(/^Wait until it has ended/),
  });
  expect(resolver()).toBe('ours');
  other.release();
  expect([await clean(), resolver()]).toEqual([0, 'as before']);
});

/** What the doctor says of a host, check by check. */

import { createSocket } from 'node:dgram';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  type DoctorOptions,
  examine,
  exitCodeOfFindings,
  type Finding,
} from '../../client/doctor.ts';
import { Lockdowns } from '../../client/lockdown.ts';
import { placeOfTunnel } from '../../client/place.ts';
import { VpnError } from '../../shared/errors.ts';
import { Journal } from '../../shared/system/journal.ts';
import { serveLocalSocket } from '../../shared/system/local-socket.ts';
import type { Run } from '../../shared/system/run.ts';
import { MadeUpHost } from './made-up-host.ts';

const NOTE = '# Written by vpn-client while its tunnel is up; it puts back what was here.\n';
let folder: string;
let route: object[];
let links: object[];
let missing: string[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-c2-${process.pid}-`));
  mkdirSync(join(folder, 'run'));
  writeFileSync(join(folder, 'resolv.conf'), 'nameserver 192.0.2.1\n');
  [route, links, missing] = [[{ dst: '10.0.0.1', dev: 'eth0' }], [], []];
});
afterEach(() => rmSync(folder, { recursive: true }));

const run: Run = async (program, args) => {
  if (missing.includes(program)) throw new VpnError('COMMAND_MISSING', `no ${program}`);
  const answer = args.includes('route') ? route : args.includes('address') ? links : [];
  return { stdout: JSON.stringify(answer), stderr: '' };
};

async function findings(change: Partial<DoctorOptions> = {}): Promise<Finding[]> {
  return examine({
    place: { stateDirectory: folder, runDirectory: join(folder, 'run') },
    endpoints: () => [{ host: 'vpn.example', port: 6000 }],
    run,
    lookUp: async () => ['10.0.0.1'],
    knock: async () => null,
    resolvConf: join(folder, 'resolv.conf'),
    namespaceFiles: join(folder, 'netns'),
    ...change,
  });
}
const about = (all: readonly Finding[], check: string) =>
  all.filter((f) => f.check === check).map((f) => `${f.result}: ${f.text}`);

test('a host in order', async () => {
  const all = await findings();
  expect(all.filter((f) => f.result === 'bad' && f.check !== 'privileges')).toEqual([]);
  expect(about(all, 'server')).toEqual(['good: 10.0.0.1 through eth0']);
  expect(about(all, 'answer')[0]).toMatch(/^unknown: 10\.0\.0\.1 port 6000 does not refuse/);
  expect(about(all, 'resolver')).toEqual(['good: 192.0.2.1']);
});

/** A host whose packet filter has one table. */
function withTable(name: string): Run {
  const nftables = [{ table: { family: 'inet', name } }];
  return async (program, args) =>
    program === 'nft' && args.includes('tables')
      ? { stdout: JSON.stringify({ nftables }), stderr: '' }
      : run(program, args);
}

test('a lockdown whose rules are gone is wrong, until they are back', async () => {
  new Lockdowns(folder).write('culvert-lockdown-cvc2', 'table inet culvert-lockdown-cvc2 {}');
  const [found] = (await findings({ run: withTable('filter') })).filter(
    ({ check }) => check === 'lockdown',
  );
  expect(found).toMatchObject({ result: 'bad', exit: 1 });
  expect(found?.text).toContain('culvert-lockdown-cvc2');
  expect(found?.fix).toContain('vpn-client lock`');
  const back = await findings({ run: withTable('culvert-lockdown-cvc2') });
  expect(about(back, 'lockdown')[0]).toMatch(/^unknown: this host is locked down/);
});

test('a lockdown that stayed is named, and the way out of it', async () => {
  const locked = withTable('culvert-lockdown-cvc1');
  const [found, ...others] = (await findings({ run: locked })).filter(
    ({ check }) => check === 'lockdown',
  );
  expect(found?.text).toContain('culvert-lockdown-cvc1');
  expect(found?.fix).toContain('vpn-client unlock');
  expect(others).toEqual([]);
});

test('what a running client has changed was not left behind', async () => {
  const place = placeOfTunnel(
    { stateDirectory: folder, runDirectory: join(folder, 'run') },
    'office',
  );
  writeFileSync(place.journalPath, '[]');
  const running = await serveLocalSocket(place.socketPath, {
    status: () => ({ tunnel: 'office', state: 'connected', server: {}, clashes: [], dns: null }),
  });
  try {
    expect(about(await findings(), 'leftovers')).toEqual(['good: nothing was left behind']);
  } finally {
    await running.close();
  }
  expect(about(await findings(), 'leftovers')[0]).toMatch(/office, which was killed/);
});

test('a damaged journal is named with what to type, and so are rules without a journal', async () => {
  const journal = join(folder, 'run', 'client-office.journal');
  const host = new MadeUpHost();
  host.tables.set('culvert-protect-cvc1', ['outgoing']);
  const closed: Run = (program, args) =>
    program === 'nft' && args.includes('-j') ? host.run(program, args) : run(program, args);
  const left = async () =>
    (await findings({ run: closed })).filter(({ check }) => check === 'leftovers');
  writeFileSync(journal, '{damaged');
  const [damaged, rules, ...others] = await left();
  expect(damaged).toMatchObject({ result: 'bad', exit: 5 });
  expect(damaged?.text).toMatch(/client-office\.journal is damaged/);
  expect(damaged?.fix).toContain('vpn-client cleanup');
  expect(rules?.text).toMatch(/without a journal: table inet culvert-protect-cvc1/);
  expect(rules?.fix).toContain('vpn-client cleanup');
  expect(others).toEqual([]);
  // A good one tells of its rules.
  const entry = { id: 1, what: 'protection culvert-protect-cvc1', undo: ['nft', 'delete'] };
  writeFileSync(journal, JSON.stringify([entry]));
  expect((await left()).map(({ text }) => text)).toEqual([
    expect.stringMatching(/changed, and closed to all but tunnels, by office/),
  ]);
  writeFileSync(journal, '[]');
  expect((await left()).map(({ text }) => text)).toEqual([
    expect.stringMatching(/office, which was killed/),
  ]);
  rmSync(journal);
  expect(await left()).toEqual([rules]);
});

test('what is left of a tunnel in a namespace is named, and nothing of other run directories', async () => {
  const host = new MadeUpHost();
  const mark = (directory: string) => ({ ifname: 'lo', ifalias: `vpn-client --run ${directory}` });
  host.namespaces.set('office', [mark(join(folder, 'run'))]);
  host.namespaces.set('other', [mark('/run/other')]);
  const asked: Run = (program, args) =>
    args.includes('netns') || args[0] === '-n' ? host.run(program, args) : run(program, args);
  expect(about(await findings({ run: asked }), 'leftovers')).toEqual([
    'unknown: clients that are gone left, without a journal: namespace office',
  ]);
});

test('what is wrong is named with what to type, and the first of it is the exit code', async () => {
  missing = ['nft'];
  const resolvConf = join(folder, 'resolv.conf');
  const journal = new Journal(join(folder, 'run', 'client-office.journal'));
  journal.replaceFile(resolvConf, `${NOTE}nameserver 10.9.0.1\n`);
  links = [{ ifname: 'eth0', flags: [], addr_info: [{ local: '192.168.1.7', prefixlen: 24 }] }];
  const all = await findings({ knock: async () => 'nobody listens there' });
  expect(about(all, 'programs')).toContain('bad: no nft');
  expect(all.find((f) => f.check === 'resolver')?.fix).toContain('vpn-client cleanup');
  expect(about(all, 'leftovers')[0]).toContain('office');
  expect(about(all, 'answer')).toEqual(['bad: 10.0.0.1 port 6000: nobody listens there']);
  expect(about(all, 'overlap')[0]).toMatch(/^unknown: eth0 is in 192\.168\.1\.0\/24/);
  expect(all.filter((f) => f.result === 'bad').every((f) => f.fix !== null)).toBe(true);
  // Without the journal `cleanup` does not know what was there, either: both say the same.
  rmSync(join(folder, 'run', 'client-office.journal'));
  const [lost] = (await findings()).filter((f) => f.check === 'resolver');
  expect(lost?.text).toMatch(
    /still is that of a tunnel that is gone, and neither it nor a journal in/,
  );
  expect(lost?.fix).toBe('Put back what this host had: a link, or `nameserver ADDRESS` lines.');
  // It may be that of another tunnel, which runs.
  const tunnel: Run = async (program, args) =>
    args.includes('group') ? { stdout: '[{"ifname":"cvc9"}]', stderr: '' } : run(program, args);
  expect(about(await findings({ run: tunnel }), 'resolver')).toEqual(['good: 10.9.0.1']);
});

test('a name that is unknown and a host without a way are the server out of reach', async () => {
  const noName = await findings({
    lookUp: async () => Promise.reject(Object.assign(new Error(), { code: 'ENOTFOUND' })),
  });
  const noWay = await findings({
    run: async (p, a) => (a.includes('route') ? { stdout: '[]', stderr: '' } : run(p, a)),
  });
  for (const all of [noName, noWay]) {
    expect(exitCodeOfFindings(all.filter((f) => f.check === 'server'))).toBe(6);
    expect(about(all, 'answer')).toEqual([]);
  }
});

test('a server of two families is reached from a host of one', async () => {
  const all = await findings({
    lookUp: async () => ['10.0.0.1', '2001:db8::1'],
    run: async (p, a) => (a.includes('2001:db8::1') ? { stdout: '[]', stderr: '' } : run(p, a)),
  });
  expect(about(all, 'server')).toEqual([
    'unknown: no route to 2001:db8::1',
    'good: 10.0.0.1 through eth0',
  ]);
  expect(about(all, 'answer')).toHaveLength(1);
});

test('beside a full tunnel or a protection the way is that of its datagrams, and nobody is asked', async () => {
  const { socketPath } = placeOfTunnel(
    { stateDirectory: folder, runDirectory: join(folder, 'run') },
    'office',
  );
  const status = { tunnel: 'office', state: 'connected', server: {}, clashes: [], dns: null };
  const asked: string[] = [];
  const running = await serveLocalSocket(socketPath, {
    status: () => ({ ...status, full: true, protection: null }),
  });
  try {
    const all = await findings({
      knock: async () => 'nobody listens there',
      run: async (program, args) => {
        asked.push(args.join(' '));
        return run(program, args);
      },
    });
    expect(asked).toContain('-json route get 10.0.0.1 mark 12373');
    expect(about(all, 'answer')).toEqual([
      'unknown: nobody beside the tunnel of office can be asked from here',
    ]);
  } finally {
    await running.close();
  }
});

test('a server that is not remembered is a finding, not an end', async () => {
  const all = await findings({
    endpoints: () => {
      throw new VpnError('PROFILE_UNKNOWN', 'nothing is remembered');
    },
  });
  expect(about(all, 'server')).toEqual(['bad: nothing is remembered']);
});

/** Without a made-up answer. */
const ask = (host: string, port: number) =>
  examine({
    place: { stateDirectory: folder, runDirectory: join(folder, 'run') },
    ...{ run, lookUp: async () => [], resolvConf: join(folder, 'resolv.conf') },
    endpoints: () => [{ host, port }],
  });

test('an address that the kernel does not connect to is a finding, not an end', async () => {
  // Link-local, and no link named.
  expect(about(await ask('fe80::1', 6000), 'answer')).toEqual(['bad: fe80::1 port 6000: EINVAL']);
});

test('a port where nobody listens refuses, one where somebody is silent does not', async () => {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  const { port } = socket.address();
  expect(about(await ask('127.0.0.1', port), 'answer')[0]).toMatch(/^unknown/);
  await new Promise<void>((resolve) => socket.close(resolve));
  expect(about(await ask('127.0.0.1', port), 'answer')).toEqual([
    `bad: 127.0.0.1 port ${port}: nobody listens there`,
  ]);
});

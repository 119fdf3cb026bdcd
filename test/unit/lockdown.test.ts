/** Lockdowns on disk and in a packet filter that is made up; commands need the privilege they ask for. */
import {
  chownSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { HostSide } from '../../client/host-side.ts';
import { Lockdowns, warnOfMissing } from '../../client/lockdown.ts';
import { endLockdowns, restoreLockdowns } from '../../client/lockdown-commands.ts';
import { placeOfTunnel } from '../../client/place.ts';
import { Protection } from '../../client/protection.ts';
import { VpnError } from '../../shared/errors.ts';
import { Journal } from '../../shared/system/journal.ts';
import { serveLocalSocket } from '../../shared/system/local-socket.ts';
import type { Run } from '../../shared/system/run.ts';
import { collectOutput } from './collected-output.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-lockdown-${process.pid}-`));
});
afterEach(() => rmSync(folder, { recursive: true }));

const asRoot = test.runIf(process.getuid?.() === 0);
const TABLE = 'culvert-lockdown-cvc1';

/** A host with a packet filter of its own, tables by name. */
function setUp() {
  const tables = new Map<string, string>();
  const run: Run = async (program, args, options) => {
    let stdout = '';
    if (program === 'nft' && args[0] === '-f') {
      const script = String(options?.input);
      const name = /^table inet (\S+)/m.exec(script)?.[1];
      if (name === undefined || !String(options?.input).includes('  chain outgoing {')) {
        throw new VpnError('COMMAND_FAILED', 'syntax error', { cause: new Error('nft') });
      }
      tables.set(name, script);
    } else if (program === 'nft' && args[0] === 'delete') {
      tables.delete(args.at(-1)!);
    } else if (program === 'nft') {
      const nftables = [...tables.keys()].map((name) => ({ table: { family: 'inet', name } }));
      stdout = JSON.stringify({ nftables });
    } else stdout = '[]';
    return { stdout, stderr: '' };
  };
  const { said, output } = collectOutput();
  const place = { stateDirectory: join(folder, 'state'), runDirectory: join(folder, 'run') };
  const lockdowns = new Lockdowns(place.stateDirectory);
  const journal = new Journal(join(folder, 'journal'), run);
  const options = { device: 'cvc1', journal, run, lan: false, lockdowns };
  return { tables, run, said, output, place, lockdowns, protection: new Protection(options) };
}

test('is written down before it is in force, for its owner alone, and as it is without a client', async () => {
  const { tables, place, lockdowns, protection } = setUp();
  await protection.begin();
  const file = join(place.stateDirectory, 'lockdown', `${TABLE}.nft`);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(lockdowns.wished()).toEqual([TABLE]);
  await protection.set({ ownMark: { mark: 99, port: 4242 }, addresses: ['10.8.0.2'], ranges: [] });
  expect(tables.get(TABLE)).toMatch(/mark 99[\s\S]*10\.8\.0\.2/);
  await protection.set({ ranges: ['10.8.0.0/24'] });
  const after = tables.get(TABLE);
  const rebooted = setUp();
  await lockdowns.restore(TABLE, rebooted.run);
  await protection.end(false);
  expect(after).not.toBe(tables.get(TABLE));
  expect(rebooted.tables.get(TABLE)).toBe(tables.get(TABLE));
  expect(rebooted.tables.get(TABLE)).toContain('10.8.0.0/24');
});

test('that cannot be written down is not in force, also when its client has ended', async () => {
  const { tables, place, protection } = setUp();
  writeFileSync(place.stateDirectory, 'no directory');
  await expect(protection.begin()).rejects.toThrow(/cannot use .*ENOTDIR/);
  expect(await protection.end(false)).toEqual([]);
  expect(tables.size).toBe(0);
});

test('a protection without lockdown writes nothing down', async () => {
  const { run, place } = setUp();
  const journal = new Journal(join(folder, 'journal'), run);
  const options = { device: 'cvc1', journal, run, lan: false, lockdowns: null };
  await new Protection(options).begin();
  expect(new Lockdowns(place.stateDirectory).wished()).toEqual([]);
});

test('that cannot be closed when its client ends is named, and all the rest is undone', async () => {
  const { run, place } = setUp();
  const ran: string[] = [];
  let broken = false;
  const logged: string[] = [];
  const host = new HostSide({
    ...{ device: 'cvc1', mark: 0, lookUp: async () => [], tell: () => {} },
    place: placeOfTunnel(place, 'office'),
    traffic: { full: 'no', lan: false, protect: true, lockdown: true, netns: null },
    log: pino({ level: 'error' }, { write: (line) => void logged.push(JSON.parse(line).msg) }),
    run: async (program, args, options) => {
      ran.push([program, ...args].join(' '));
      // A kernel whose nft knows no ARP: there is nothing else of nft to undo.
      if (args[0] === '--check') throw new VpnError('COMMAND_FAILED', 'not supported');
      if (broken && program === 'nft') throw new VpnError('COMMAND_FAILED', 'nft: no end in time');
      return run(program, args, options);
    },
  });
  await host.prepare(false);
  await host.opened(4242);
  const network = { addresses: ['10.8.0.2/24'], mtu: 1420, routes: [], serverAddress: null };
  await host.apply({ network, full: false, endpoints: [], nameServers: [] }, () => {});
  broken = true;
  await host.undo();
  expect(logged).toEqual([`could not undo: what ${TABLE} lets this client alone do`]);
  expect(ran).toContain('ip address del 10.8.0.2/24 dev cvc1');
  expect(host.journal.pending).toEqual([]);
});

test('rules of a client before are taken over, also when its journal is lost', async () => {
  const { tables, run } = setUp();
  const journal = new Journal(join(folder, 'other'), run);
  const next = () =>
    new Protection({ ...{ device: 'cvc1', journal, run }, lan: false, lockdowns: null });
  const [first, second, third] = [next(), next(), next()];
  await first.begin();
  expect(first.takenOver).toBe(false);
  await second.begin();
  expect(second.takenOver).toBe(true);
  await journal.undoAll();
  tables.set('culvert-protect-cvc1', '');
  await third.begin();
  expect(third.takenOver).toBe(true);
  expect(journal.pending).toEqual(['protection culvert-protect-cvc1']);
});

asRoot('comes back after a reboot, and one that is damaged keeps no other away', async () => {
  const { tables, run, said, output, place, lockdowns, protection } = setUp();
  await protection.begin();
  await protection.end(false);
  const before = tables.get(TABLE);
  writeFileSync(join(place.stateDirectory, 'lockdown', 'culvert-lockdown-a.nft'), 'cut off');
  tables.clear();
  await warnOfMissing(place.stateDirectory, output, run);
  expect(said.splice(0).join('\n')).toMatch(/this host is open: table inet culvert-lockdown-cvc1/);
  expect(await restoreLockdowns(place, output, run)).toBe(1);
  expect(said.splice(0).join('\n')).toMatch(/culvert-lockdown-a is damaged: only tunnels lead out/);
  expect(tables.get(TABLE)).toBe(before);
  expect(await lockdowns.missing(run)).toEqual([]);
});

asRoot.each([
  ['empty', () => ''],
  [
    'cut off behind the commands that make an empty table',
    (text: string) => text.split('table inet')[0]! + text.split('\n')[1],
  ],
  ['cut off in a rule', (text: string) => text.slice(0, -40)],
  ['not one that nft takes', (text: string) => text.replace('chain', 'chian')],
])('fails closed when what was written down is %s, and is whole again', async (_what, damage) => {
  const { tables, run, output, place, lockdowns, protection } = setUp();
  await protection.begin();
  await protection.end(false);
  const file = join(place.stateDirectory, 'lockdown', `${TABLE}.nft`);
  writeFileSync(file, damage(readFileSync(file, 'utf8')));
  tables.clear();
  expect(await restoreLockdowns(place, output, run)).toBe(1);
  expect(tables.get(TABLE)).toMatch(/hook output priority 0[\s\S]*oifgroup[\s\S]*reject/);
  expect(await lockdowns.restore(TABLE, run)).toBe(true);
});

test('a table that is not there, although nft took it, is not called put back', async () => {
  const { tables, run, lockdowns, protection } = setUp();
  await protection.begin();
  tables.clear();
  let lost = 0;
  const losing = (times: number): Run => {
    lost = 0;
    return async (program, args, options) => {
      const outcome = await run(program, args, options);
      if (args[0] === '-f' && lost++ < times) tables.clear();
      return outcome;
    };
  };
  expect(await lockdowns.restore(TABLE, losing(1))).toBe(false);
  expect(tables.get(TABLE)).toMatch(/oifgroup[\s\S]*reject/);
  const before = readFileSync(join(folder, 'state', 'lockdown', `${TABLE}.nft`), 'utf8');
  await expect(lockdowns.restore(TABLE, losing(2))).rejects.toMatchObject({
    code: 'HOST_REFUSED',
    message: expect.stringContaining(`no table inet ${TABLE}`),
  });
  expect(readFileSync(join(folder, 'state', 'lockdown', `${TABLE}.nft`), 'utf8')).toBe(before);
});

asRoot('is not put back from what another user wrote', async () => {
  const { tables, run, said, output, place, protection } = setUp();
  await protection.begin();
  tables.clear();
  chownSync(join(place.stateDirectory, 'lockdown', `${TABLE}.nft`), 65_534, 65_534);
  const file = join(place.stateDirectory, 'lockdown', `${TABLE}.nft`);
  writeFileSync(file, readFileSync(file, 'utf8').replace(/reject.*/g, 'accept'));
  expect(await restoreLockdowns(place, output, run)).toBe(1);
  expect(said.join('\n')).toContain('is damaged');
  expect(tables.get(TABLE)).toContain('reject');
});

asRoot('ends in the kernel and on disk, but not while its client runs', async () => {
  const { tables, run, output, place, protection } = setUp();
  await protection.begin();
  const running = await serveLocalSocket(placeOfTunnel(place, 'office').socketPath, {
    status: () => ({ tunnel: 'office', device: 'cvc1' }),
  });
  try {
    await expect(endLockdowns(place, output, run)).rejects.toMatchObject({
      code: 'ALREADY_RUNNING',
      hint: expect.stringContaining('vpn-client disconnect office'),
    });
  } finally {
    await running.close();
  }
  expect([...tables.keys()]).toEqual([TABLE]);
  // Also where a flush has taken the rules: the wish ends, too.
  tables.clear();
  expect(await endLockdowns(place, output, run)).toEqual([TABLE]);
  expect(readdirSync(join(place.stateDirectory, 'lockdown'))).toEqual([]);
});

asRoot('does not end while a client is silent that may be its own', async () => {
  const { tables, run, output, place, protection } = setUp();
  await protection.begin();
  const frozen = await serveLocalSocket(placeOfTunnel(place, 'office').socketPath, {
    status: () => new Promise(() => {}),
  });
  try {
    await expect(endLockdowns(place, output, run)).rejects.toMatchObject({
      code: 'NOT_ANSWERING',
    });
  } finally {
    await frozen.close();
  }
  expect([...tables.keys()]).toEqual([TABLE]);
  expect(readdirSync(join(place.stateDirectory, 'lockdown'))).toHaveLength(1);
});

test('has a unit that comes before the network and after what flushes tables', () => {
  const file = new URL('../../client/systemd/vpn-client-lockdown.service', import.meta.url);
  const lines = readFileSync(file, 'utf8').split('\n');
  expect(lines).toContain('Before=network-pre.target shutdown.target');
  // Otherwise it would wait for sysinit.target, which waits for it.
  expect(lines).toContain('DefaultDependencies=no');
  for (const key of ['After', 'PartOf', 'ReloadPropagatedFrom']) {
    expect(lines).toContain(`${key}=nftables.service`);
  }
  for (const key of ['ExecStart', 'ExecReload']) expect(lines).toContain(`${key}=vpn-client lock`);
});

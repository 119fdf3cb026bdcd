/** What a client does with leases, asked for and pushed, and what it tells of them. */
import { pino } from 'pino';
import { beforeEach, expect, test } from 'vitest';
import type { Control, Receipt } from '../../client/control.ts';
import { LeaseKeeper } from '../../client/lease-keeper.ts';

const LEASE = {
  ...{ address: '10.0.0.2', prefixLength: 24, serverAddress: '10.0.0.1', mtu: 1400, keepalive: 0 },
  ...{ routes: ['10.9.0.0/16'], dns: [], domains: [], full: false },
};

let told: [number, string | undefined, readonly string[]][];
let log: string[];
let keeper: LeaseKeeper;
beforeEach(() => {
  told = [];
  log = [];
  const confirm = (receipt: Receipt, version: string | undefined, refused: readonly string[]) => {
    told.push([receipt.id, version, refused]);
  };
  keeper = new LeaseKeeper({
    control: { confirm } as unknown as Control,
    log: pino({ level: 'info' }, { write: (line) => void log.push(JSON.parse(line).msg) }),
    endpoint: () => '203.0.113.1',
    full: false,
  });
});

const take = (id: number, version: string, change = {}, isPush = false) =>
  keeper.take({ type: 'leased', lease: { ...LEASE, ...change }, receipt: { id, isPush, version } });
const done = async (): Promise<string[]> => [];

test('a lease is reported when the host is as it says, not before', async () => {
  expect(take(1, 'v1')).toBeNull();
  expect(keeper.lease?.network.routes).toEqual(['10.9.0.0/16']);
  expect(told).toEqual([]);
  await keeper.inForce(done);
  expect(told).toEqual([[1, 'v1', []]]);
});

test('what is refused of a lease is reported, and named once in the log', async () => {
  const change = { mtu: 100 };
  const refused = 'the MTU 100 is not from 1280 to 65455';
  take(1, 'v1', change);
  await keeper.inForce(done);
  take(2, 'v1', change);
  await keeper.inForce(done);
  expect(told.map(([, , what]) => what)).toEqual([
    [`refused: ${refused}`],
    [`refused: ${refused}`],
  ]);
  expect(log).toEqual([`refused from the server: ${refused}`]);
});

test('a push that cannot be used leaves the lease as it is, and says which one that is', async () => {
  take(1, 'v1');
  await keeper.inForce(done);
  const reason = take(7, 'v2', { address: '8.8.8.8', serverAddress: '8.8.8.9' }, true);
  expect(reason).toMatch(/private/);
  expect(keeper.lease?.network.addresses).toEqual(['10.0.0.2/24']);
  expect(told.at(-1)).toEqual([7, 'v1', [reason]]);
  expect(keeper.problems).toEqual([`the server's lease is not in force: ${reason}`]);
  // Whatever else is done for the one that stays.
  await keeper.inForce(done);
  expect(keeper.problems).toHaveLength(1);
  take(8, 'v3', {}, true);
  expect(keeper.problems).toEqual([]);
});

test('a push without a lease that was asked for is no lease', () => {
  expect(take(7, 'v2', {}, true)).toBe('it was not asked for');
  expect(keeper.lease).toBeNull();
});

test('a host that cannot be changed is reported as such', async () => {
  take(1, 'v1');
  const failure = Promise.reject(new Error('ip failed'));
  await expect(keeper.inForce(() => failure)).rejects.toThrow('ip failed');
  expect(told).toEqual([[1, undefined, ['ip failed']]]);
});

test('a push that the host cannot be changed to is taken back, and the lease before is in force', async () => {
  take(1, 'v1');
  await keeper.inForce(done);
  take(7, 'v2', { address: '10.0.0.3' }, true);
  const tried: (readonly string[])[] = [];
  const setUp = async (): Promise<string[]> => {
    tried.push(keeper.lease!.network.addresses);
    if (tried.length === 1) throw new Error('ip failed');
    return [];
  };
  await expect(keeper.inForce(setUp)).rejects.toThrow('ip failed');
  expect(tried).toEqual([['10.0.0.3/24'], ['10.0.0.2/24']]);
  expect(told.at(-1)).toEqual([7, 'v1', ['ip failed']]);
  expect(keeper.problems).toEqual([`the server's lease is not in force: ip failed`]);
  await keeper.inForce(done);
  expect(keeper.problems).toHaveLength(1);
  take(8, 'v3', {}, true);
  await keeper.inForce(done);
  await expect(keeper.inForce(() => Promise.reject(new Error('once')))).rejects.toThrow('once');
  expect(keeper.problems).toEqual([]);
});

test('what comes while the host is being changed is not reported with it', async () => {
  take(1, 'v1');
  await keeper.inForce(async () => {
    take(2, 'v2', {}, true);
    return ['name servers: silent'];
  });
  expect(told).toEqual([[1, 'v1', ['name servers: silent']]]);
});

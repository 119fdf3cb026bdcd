/** What `connect --plan` and the doctor know of servers before there is a connection. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { endpointsOf } from '../../client/doctor-report.ts';
import { findPlace, placeOfTunnel } from '../../client/place.ts';
import { ProfileStore } from '../../client/profile-store.ts';
import { rememberedLease, rememberLease } from '../../client/remembered-lease.ts';
import { showPlan } from '../../client/show-plan.ts';
import { chooseTarget } from '../../client/target.ts';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import type { Lease } from '../../shared/control/messages.ts';
import type { Logger } from '../../shared/log.ts';
import { serveLocalSocket } from '../../shared/system/local-socket.ts';
import { collectOutput } from './collected-output.ts';

const LEASE: Lease = {
  ...{
    address: '10.99.1.2',
    prefixLength: 24,
    serverAddress: '10.99.1.1',
    mtu: 1380,
    keepalive: 25,
  },
  ...{ routes: ['10.99.64.0/18'], dns: [], domains: [], full: false },
};

let folder: string;
let store: ProfileStore;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-plan-${process.pid}-`));
  store = new ProfileStore(folder);
});
afterEach(() => rmSync(folder, { recursive: true }));

const log = { error: (fields: unknown) => expect(fields).toBeNull() } as unknown as Logger;
const place = () => findPlace({ state: folder, run: folder }, {});

function remember(host: string) {
  const invite = {
    endpoints: [],
    serverPublicKey: publicKeyOf(generatePrivateKey()),
    privateKey: generatePrivateKey(),
    expires: 0,
  };
  return store.complete(store.begin([{ host, port: 6000 }], invite), 'laptop');
}

interface Facts {
  readonly leased: boolean;
  readonly remembered: boolean;
  readonly servers: readonly unknown[];
  readonly steps: readonly { readonly what: string }[];
}

async function plan(text: string): Promise<{ facts: Facts; text: string }> {
  const { target, fallbacks, tunnel } = chooseTarget({ text, invite: undefined, now: 0 }, store);
  const { shown, output } = collectOutput();
  const traffic = { full: 'no', lan: true, protect: false, lockdown: false, netns: null } as const;
  const at = placeOfTunnel(place(), tunnel);
  await showPlan({ target, fallbacks, store, place: at, device: 'cvc0', traffic }, output);
  return { facts: shown[0]!.value as Facts, text: shown[0]!.text };
}

test('the plan shows every server, and a remembered lease as one', async () => {
  const first = remember('a.example');
  remember('b.example');
  const both = 'a.example:6000,b.example:6000';
  expect(await plan(both)).toMatchObject({ facts: { leased: true, remembered: false } });
  rememberLease(first.directory, LEASE, log);
  const { facts, text } = await plan(both);
  expect(facts).toMatchObject({ leased: true, remembered: true });
  expect(facts.servers).toEqual([
    {
      endpoints: ['a.example:6000'],
      role: 'server',
      from: 'remembered lease',
      addresses: ['10.99.1.2/24'],
    },
    { endpoints: ['b.example:6000'], role: 'server', from: null, addresses: [] },
  ]);
  const whats = facts.steps.map(({ what }) => what);
  expect(whats).toContain('address 10.99.1.2/24 on cvc0');
  expect(whats).toContain('route 10.99.64.0/18 through cvc0');
  expect(text).toMatch(/^remembered: /m);
  expect(text.match(/^ {4}undo: /gm)).toHaveLength(facts.steps.length);
  expect(text).toMatch(
    /address add 10\.99\.1\.2\/24.*\n {4}undo: ip .*address del 10\.99\.1\.2\/24/,
  );
  expect(text).toMatch(/mtu 1380.*\n {4}undo: it goes with the device/);
  expect(text).toContain('if no server before it answers: b.example:6000, as it leases it');
});

test('the plan of a profile whose ranges contain its server keeps that one outside', async () => {
  const file = join(folder, 'office.conf');
  const lines = [
    ...['[Interface]', `PrivateKey = ${keyToBase64(generatePrivateKey())}`],
    ...['Address = 10.99.1.2/24', '[Peer]'],
    `PublicKey = ${keyToBase64(publicKeyOf(generatePrivateKey()))}`,
    ...['AllowedIPs = 203.0.113.0/24', 'Endpoint = 203.0.113.9:6000', ''],
  ];
  writeFileSync(file, lines.join('\n'), { mode: 0o600 });
  const { facts } = await plan(file);
  const whats = facts.steps.map(({ what }) => what).join('\n');
  expect(whats).toMatch(/^203\.0\.113\.9 stays outside the tunnel, table \d+$/m);
  expect(whats).toMatch(/^route 203\.0\.113\.0\/24 through cvc0, table \d+$/m);
});

test('a lease is written down as it came, and one that is damaged is none', () => {
  const { directory } = remember('a.example');
  expect(rememberedLease(directory)).toBeNull();
  rememberLease(directory, { ...LEASE, type: 'leased', id: 7 } as Lease, log);
  expect(rememberedLease(directory)).toEqual(LEASE);
  const file = join(directory, 'lease.json');
  expect(readFileSync(file, 'utf8')).not.toContain('leased');
  writeFileSync(file, '{"address":');
  expect(rememberedLease(directory)).toBeNull();
});

test('the doctor looks for every server of a list, and every peer of a profile', () => {
  remember('a.example');
  remember('b.example');
  const hosts = (text: string) => endpointsOf(place(), text).map(({ host }) => host);
  expect(hosts('a.example:6000,b.example:6000')).toEqual(['a.example', 'b.example']);
  const peer = (host: string) =>
    `[Peer]\nPublicKey = ${keyToBase64(publicKeyOf(generatePrivateKey()))}\nEndpoint = ${host}:6000\n`;
  const file = join(folder, 'office.conf');
  const own = `[Interface]\nPrivateKey = ${keyToBase64(generatePrivateKey())}\n`;
  writeFileSync(file, `${own}${peer('one.example')}${peer('two.example')}`, { mode: 0o600 });
  expect(hosts(file)).toEqual(['one.example', 'two.example']);
});

test('there is no plan for a tunnel that is up', async () => {
  remember('a.example');
  const { socketPath } = placeOfTunnel(place(), 'a.example_6000');
  const running = await serveLocalSocket(socketPath, { status: () => ({}) });
  try {
    await expect(plan('a.example:6000')).rejects.toMatchObject({ code: 'ALREADY_RUNNING' });
  } finally {
    await running.close();
  }
});

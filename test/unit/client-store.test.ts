/** What a client remembers, what it connects to, and an enrolment that is cut off anywhere. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { planTunnel } from '../../client/plan.ts';
import { ProfileStore, TimestampFile } from '../../client/profile-store.ts';
import { chooseTarget } from '../../client/target.ts';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import { formatInvite, type Invite } from '../../shared/control/invite.ts';
import { formatHostPort } from '../../shared/profile.ts';
import { errorOf } from './error-of.ts';

const NOW = 1_700_000_000;
const AT = { host: 'vpn.example', port: 6000 };
let folder: string;
let store: ProfileStore;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-c1-${process.pid}-`));
  store = new ProfileStore(join(folder, 'state'));
});
afterEach(() => rmSync(folder, { recursive: true }));

function newInvite(change: Partial<Invite> = {}): Invite {
  return {
    endpoints: ['vpn.example:6000', '[fd00::1]:6000'],
    serverPublicKey: publicKeyOf(generatePrivateKey()),
    privateKey: generatePrivateKey(),
    expires: NOW + 60,
    ...change,
  };
}
const choose = (text: string | undefined, invite?: Invite, now = NOW) =>
  chooseTarget({ text, invite: invite && formatInvite(invite), now }, store);

test('our own key is on disk, for us alone, before the enrolment is answered', () => {
  const invite = newInvite();
  const begun = store.begin([AT], invite);
  expect(readdirSync(begun.directory).sort()).toEqual(['client.key', 'enrolment.json']);
  for (const file of readdirSync(begun.directory)) {
    expect(statSync(join(begun.directory, file)).mode & 0o777).toBe(0o600);
  }
  expect(statSync(begun.directory).mode & 0o777).toBe(0o700);
  const again = new ProfileStore(join(folder, 'state')).findByInvite(invite);
  expect(again).toEqual(begun);
  expect(keyToBase64(store.ownKey(again!))).toBe(keyToBase64(store.ownKey(begun)));
  const text = readFileSync(join(begun.directory, 'enrolment.json'), 'utf8');
  expect(text).not.toContain(keyToBase64(invite.privateKey));
});

test('an answered enrolment is remembered under every endpoint', () => {
  const both = [AT, { host: 'fd00::1', port: 6000 }];
  const completed = store.complete(store.begin(both, newInvite()), 'laptop');
  expect(readdirSync(completed.directory).sort()).toEqual(['client.key', 'profile.json']);
  expect(store.find({ host: 'VPN.example', port: 6000 })).toEqual(completed);
  expect(store.find({ host: 'fd00::1', port: 6000 })).toEqual(completed);
  expect(store.find({ host: 'vpn.example', port: 6001 })).toBeNull();
  expect(completed.name).toBe('laptop');
});

test('a second enrolment replaces the first one only when it is answered', () => {
  const first = store.complete(store.begin([AT], newInvite()), 'one');
  const second = store.begin([AT], newInvite());
  expect(store.find(AT)).toEqual(first);
  expect(keyToBase64(store.ownKey(first))).not.toBe(keyToBase64(store.ownKey(second)));
  const completed = store.complete(second, 'two');
  expect(store.find(AT)).toEqual(completed);
  expect(readdirSync(completed.directory).sort()).toEqual([completed.keyFile, 'profile.json']);
});

test('what is damaged is named and not guessed', () => {
  const { directory } = store.complete(store.begin([AT], newInvite()), 'one');
  for (const text of ['{', '{}', '{"version":2}']) {
    writeFileSync(join(directory, 'profile.json'), text);
    const error = errorOf(() => store.find(AT));
    expect([error.code, error.message]).toEqual([
      'STATE_UNUSABLE',
      expect.stringMatching(/profile\.json is damaged/),
    ]);
  }
});

test('the highest timestamp survives, a damaged one counts as none', () => {
  const file = new TimestampFile(join(folder, 'state', 'x'));
  expect(file.read()).toBeNull();
  const stamp = Uint8Array.from({ length: 12 }, (_, i) => i);
  file.write(stamp);
  expect(new TimestampFile(join(folder, 'state', 'x')).read()).toEqual(stamp);
  writeFileSync(join(folder, 'state', 'x', 'timestamp'), 'zz');
  expect(file.read()).toBeNull();
});

test('an invite at its first use leads to its endpoints, the one typed first', () => {
  const invite = newInvite();
  const { target } = choose(undefined, invite);
  expect(target).toMatchObject({ type: 'invite', begun: null });
  expect(planTunnel(target)).toMatchObject({
    identity: 'invite',
    network: null,
    serverPublicKey: invite.serverPublicKey,
    endpoints: [AT, { host: 'fd00::1', port: 6000 }],
  });
  const typed = choose('[fd00::1]:6000', invite).target;
  expect(planTunnel(typed).endpoints).toEqual([{ host: 'fd00::1', port: 6000 }, AT]);
  expect(readdirSync(folder)).toEqual([]);
});

test('an invite that was cut off is taken up with both keys, even after its expiry', () => {
  const invite = newInvite();
  const begun = store.begin([AT], invite);
  const { target } = choose(undefined, invite, NOW + 1000);
  expect(target).toMatchObject({ type: 'invite', begun });
  expect(planTunnel(target).identity).toBe('either');
  expect(choose('vpn.example:6000').target).toEqual({ type: 'member', membership: begun });
});

test('an invite that was used here connects with what is remembered, and says so', () => {
  const invite = newInvite();
  const membership = store.complete(store.begin([AT], invite), 'laptop');
  const { target, notes } = choose('vpn.example:6000', invite, NOW + 1000);
  expect(target).toEqual({ type: 'member', membership });
  expect(notes[0]).toMatch(/used here before/);
  expect(planTunnel(target).identity).toBe('own');
});

test('another invite for a remembered server is a new enrolment, and says so', () => {
  store.complete(store.begin([AT], newInvite()), 'laptop');
  const { target, notes } = choose(undefined, newInvite());
  expect(target).toMatchObject({ type: 'invite', begun: null });
  expect(notes[0]).toMatch(/replaces what is remembered/);
});

test('expired, damaged and foreign invites have errors of their own', () => {
  expect(errorOf(() => choose(undefined, newInvite(), NOW + 60)).code).toBe('INVITE_EXPIRED');
  const bad = (invite: string) =>
    errorOf(() => chooseTarget({ text: undefined, invite, now: NOW }, store)).code;
  expect(bad('hello')).toBe('INVITE_NOT_RECOGNISED');
  expect(bad(formatInvite(newInvite()).slice(0, -3))).toBe('INVITE_DAMAGED');
});

test('without arguments the only server remembered is meant', () => {
  expect(errorOf(() => choose(undefined)).code).toBe('PROFILE_UNKNOWN');
  const membership = store.complete(store.begin([AT], newInvite()), 'laptop');
  expect(choose(undefined).target).toEqual({ type: 'member', membership });
  store.complete(store.begin([{ host: 'b.example', port: 1 }], newInvite()), 'x');
  const error = errorOf(() => choose(undefined));
  expect([error.code, error.message]).toEqual([
    'USAGE',
    expect.stringMatching(/vpn\.example:6000.*b\.example:1|b\.example:1.*vpn\.example:6000/),
  ]);
});

const OWN = generatePrivateKey();
const section = () => `[Peer]\nPublicKey = ${keyToBase64(publicKeyOf(generatePrivateKey()))}\n`;
const [PEER, OTHER_PEER] = [section(), section()];
function profile(text: string, mode = 0o600): string {
  const path = join(folder, 'office.conf');
  rmSync(path, { force: true });
  writeFileSync(path, `[Interface]\nPrivateKey = ${keyToBase64(OWN)}\n${text}`, { mode });
  return path;
}

test('a profile file gives addresses and the routes that the addresses do not cover', () => {
  const path = profile(
    `Address = 10.0.0.2/24, fd00::2/64\nListenPort = 6000\nFwMark = 5\nDNS = 10.0.0.1, corp.example\n${PEER}AllowedIPs = 10.0.0.0/24, 10.0.0.7, fd00::/64, 10.5.3.9/16\n${OTHER_PEER}Endpoint = [fd00:1::1]:1\nAllowedIPs = 10.5.0.0/16\n`,
  );
  const plan = planTunnel(choose(path).target);
  expect(plan).toMatchObject({
    identity: 'own',
    endpoints: [{ host: 'fd00:1::1', port: 1 }],
    listenPort: 6000,
    fwmark: 5,
    network: { addresses: ['10.0.0.2/24', 'fd00::2/64'], mtu: 1420, routes: ['10.5.0.0/16'] },
    dns: { servers: ['10.0.0.1'], domains: ['corp.example'] },
  });
  expect(plan.others).toHaveLength(1);
});

test('all traffic: a full tunnel in the main table, just a route in a table of its own', () => {
  const everything = `${PEER}AllowedIPs = 10.0.0.0/8, ::/0\n`;
  const plan = (text: string) => planTunnel(choose(profile(text + everything)).target);
  expect(plan('').network).toMatchObject({ routes: ['10.0.0.0/8'], defaults: [6] });
  expect(plan('Table = off\n').network).toMatchObject({ routes: [] });
  expect(plan('Table = off\n').network?.defaults).toBeUndefined();
  expect(plan('Table = 77\nAddress = 10.0.0.2/8\n').network).toMatchObject({
    table: 77,
    routes: ['10.0.0.0/8', '::/0'],
  });
});

test('files that cannot be', () => {
  expect(errorOf(() => choose(profile(''))).message).toMatch(/no \[Peer\]/);
  expect(errorOf(() => choose(profile(PEER, 0o640))).code).toBe('KEY_FILE_READABLE_BY_OTHERS');
  const self = `[Peer]\nPublicKey = ${keyToBase64(publicKeyOf(OWN))}\n`;
  expect(errorOf(() => choose(profile(self))).message).toMatch(/our own public key/);
  expect(errorOf(() => choose(join(folder, 'none.conf'))).code).toBe('PROFILE_UNKNOWN');
  expect(errorOf(() => choose('nowhere.example:1')).message).toMatch(/nowhere\.example:1/);
  expect(errorOf(() => choose(profile(PEER), newInvite())).code).toBe('USAGE');
  expect(errorOf(() => choose(folder)).code).toBe('KEY_FILE_UNUSABLE');
});

test('a list is of servers that are remembered, each once, and goes by the name of the first', () => {
  const other = { host: 'b.example', port: 6000 };
  for (const at of [AT, other]) store.complete(store.begin([at], newInvite()), 'laptop');
  const text = formatHostPort(AT);
  const { tunnel, target, fallbacks } = choose(`${text},b.example:6000`);
  expect(tunnel).toBe(choose(text).tunnel);
  const endpoints = [target, ...fallbacks].map((t) => planTunnel(t).endpoints);
  expect(endpoints).toEqual([[AT], [other]]);
  expect(choose(text).fallbacks).toEqual([]);
  const codeOf = (list: string, invite?: Invite) => errorOf(() => choose(list, invite)).code;
  expect(codeOf(`${text},c.example:6000`)).toBe('PROFILE_UNKNOWN');
  expect(codeOf(`${text},b.example`)).toBe('PROFILE_UNKNOWN');
  expect(codeOf(`${text},${text}`)).toBe('USAGE');
  expect(codeOf(`${text},b.example:6000`, newInvite())).toBe('USAGE');
});

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createProgram } from '../../client/commands.ts';
import { findPlace, tunnelMeant, tunnelOfProfile, tunnelOfServer } from '../../client/place.ts';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-c4-${process.pid}-`));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('a tunnel is found by its name and by what connect was given', () => {
  const place = findPlace({ run: folder }, {});
  writeFileSync(join(folder, 'client-x.conf.sock'), '');
  const named = (text: string) => tunnelMeant(place, text);
  expect(['office', 'office.conf', '/root/my/office.conf'].map(named)).toEqual(
    Array(3).fill('office'),
  );
  expect(named('VPN.example.org:6000')).toBe('vpn.example.org_6000');
  expect(named('vpn.example.org_6000')).toBe('vpn.example.org_6000');
  expect(named('[fd00::1]:6000')).toBe('fd00__1_6000');
  expect(named('x.conf')).toBe('x.conf');
  expect(named('Bücher.example:6000')).toBe('xn--bcher-kva.example_6000');
});

test('tunnels whose names differ in letters beyond ASCII, or at the end alone, are told apart', () => {
  const long = 'a'.repeat(48);
  const names = ['münchen', 'mönchen', '東京', '大阪', `${long}1`, `${long}2`].map(tunnelOfProfile);
  expect(new Set(names).size).toBe(6);
  for (const name of names) expect(name).toMatch(/^[\w.-]{1,39}-[0-9a-f]{8}$/);
  expect(names[0]).toMatch(/^m_nchen-/);
  const same = ['x y.conf', 'x_y.conf', 'x+y.conf'].map(tunnelOfProfile);
  expect(new Set(same).size).toBe(3);
  // No option, no hidden file.
  for (const name of ['-rf.conf', '.conf.conf', '..']) expect(tunnelOfProfile(name)).toMatch(/^\w/);
  // As they always were.
  expect([long, 'office.conf'].map(tunnelOfProfile)).toEqual([long, 'office']);
  const servers = ['vpn.example.org_6000', '2001:db8::1_6000'];
  expect(servers.map(tunnelOfServer)).toEqual(['vpn.example.org_6000', '2001_db8__1_6000']);
  // Colons are a loss but in an address.
  expect(tunnelOfProfile('a_b.conf')).toBe('a_b');
  expect(tunnelOfProfile('a:b.conf')).toMatch(/^a_b-[0-9a-f]{8}$/);
});

test('an address that cannot be one is refused with the reason', async () => {
  const connect = async (target: string) => {
    let said = '';
    const code = await createProgram({
      argv: ['connect', target, '--state', folder, '--run', folder],
      env: {},
      stdout: { write: () => true },
      stderr: { write: (text) => (said += text) },
    }).run();
    return `${code} ${said.split('\n')[0]}`;
  };
  expect(await connect('bü cher.example:6000')).toMatch(/^2 .*has no valid host name/);
  expect(await connect('vpn.example:70000')).toMatch(/^2 .*has no port from 1 to 65535/);
  expect(await connect('bücher.example:6000')).toMatch(
    /^5 .*nothing is remembered of xn--bcher-kva/,
  );
});

test('--no-lan is refused where it would do nothing', async () => {
  const [own, server] = [generatePrivateKey(), publicKeyOf(generatePrivateKey())];
  const connect = async (allowedIps: string, ...flags: string[]) => {
    const file = join(folder, 'office.conf');
    const inside = `PrivateKey = ${keyToBase64(own)}\nAddress = 10.0.0.2/24`;
    const peer = `PublicKey = ${keyToBase64(server)}\nAllowedIPs = ${allowedIps}`;
    writeFileSync(file, `[Interface]\n${inside}\n[Peer]\n${peer}\n`, { mode: 0o600 });
    let said = '';
    const code = await createProgram({
      // Ends there when the flags are good.
      argv: ['connect', file, '--state', folder, '--run', folder, '--log', 'loud', ...flags],
      env: {},
      stdout: { write: () => true },
      stderr: { write: (text) => (said += text) },
    }).run();
    expect(code).toBe(2);
    return /--no-lan has no effect|--log "loud"/.exec(said)?.[0];
  };
  for (const flags of [[], ['--netns', 'office']]) {
    expect(await connect('10.0.0.0/24', '--no-lan', ...flags)).toBe('--no-lan has no effect');
  }
  for (const flag of ['--full', '--accept-full', '--protect', '--lockdown']) {
    expect(await connect('10.0.0.0/24', '--no-lan', flag)).toBe('--log "loud"');
  }
  expect(await connect('::/0', '--no-lan')).toBe('--log "loud"');
});

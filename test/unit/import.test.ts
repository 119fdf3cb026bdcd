/** People taken over from other servers. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { keyToBase64 } from '../../keys/keypair.ts';
import { Administration } from '../../server/administration.ts';
import { resolveConfiguration } from '../../server/configuration.ts';
import { importPeople } from '../../server/import.ts';
import { readImport } from '../../server/import-file.ts';
import { peersText } from '../../server/report.ts';
import { Harness, SERVER_KEY } from './server-harness.ts';
import { codeOf, key } from './store-suite.ts';

let folder: string;
let h: Harness;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-import-${process.pid}-`));
  h = new Harness();
  return () => {
    h.close();
    rmSync(folder, { recursive: true, force: true });
  };
});

function file(name: string, text: string): string {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
}

/** What `vpn-server peers` lists. */
const everybody = () => {
  const unused = { outwardAddress: async () => null, overlappingLinks: async () => [] };
  const configuration = resolveConfiguration({ flags: {}, environment: {}, file: null });
  const { registry, store, now } = h;
  const here = { registry, store, publicKey: SERVER_KEY, configuration, now: () => now };
  return new Administration({ ...here, ...unused }).peers();
};
const listed = () => {
  const { reservations } = everybody();
  return reservations.map((r) => `${r.name} ${r.address ?? '-'} ${r.networks.join()}`);
};

const K = (byte: number) => keyToBase64(key(byte));
const WG0 = `[Interface]
Address = 192.168.1.1/24, fd00:77::1/64
ListenPort = 51820
PrivateKey = ${K(90)}
PostUp = iptables -A FORWARD -i wg0 -j ACCEPT

### Client anna
[Peer]
PublicKey = ${K(1)}
PresharedKey = ${K(70)}
AllowedIPs = 192.168.1.5/32,fd00:77::5/128

# BEGIN_PEER Böse Wörter!
[Peer]
PublicKey = ${K(2)}
AllowedIPs = 192.168.1.6/32, 10.20.0.0/16
# END_PEER Böse Wörter!

# Client: phone (3f2a)
[Peer]
PublicKey = ${K(3)}
AllowedIPs = 192.168.1.7/32

[Peer]
# phone
PublicKey = ${K(4)}
AllowedIPs = 192.168.1.8/32

[Peer]
PublicKey = ${K(5)}
AllowedIPs =
`;

describe('A wg0.conf', () => {
  it('is read with the names that scripts write into comments', () => {
    const { peers, privateKey, notes } = readImport(file('wg0.conf', WG0));
    expect(peers.map((p) => [p.name, p.address, p.address6, p.networks])).toEqual([
      ['anna', '192.168.1.5', 'fd00:77::5', []],
      ['Bose-Worter', '192.168.1.6', null, ['10.20.0.0/16']],
      ['phone', '192.168.1.7', null, []],
      ['phone-2', '192.168.1.8', null, []],
      [`peer-${K(5).slice(0, 8)}`, null, null, []],
    ]);
    expect(peers[0]?.presharedKey).toEqual(key(70));
    const prefixed = WG0.replace('### Client anna', '# client-1').replace('# phone', '# Name=tv');
    const found = readImport(file('wg0.conf', prefixed)).peers.map((p) => p.name);
    expect([found[0], found[3]]).toEqual(['client-1', 'tv']);
    expect(privateKey).toEqual(key(90));
    expect(notes.join()).toContain('UDP 51820');
  });

  it('comes over whole: keys, preshared keys, addresses, networks', () => {
    const { peers } = readImport(file('wg0.conf', WG0));
    const sources = { registry: h.registry, invites: h.store.invites(), now: h.now };
    const planned = importPeople(peers, sources, true);
    expect(h.store.peers()).toEqual([]);
    const reply = importPeople(peers, sources, false);
    expect(reply).toEqual(planned);
    expect(reply.notes.join()).toContain('fd00:77::5 is left out');
    expect(h.specOf(key(1))).toMatchObject({
      ...{ allowedIps: ['192.168.1.5/32'], presharedKey: key(70) },
    });
    expect(h.specOf(key(2))?.allowedIps).toEqual(['192.168.1.6/32', '10.20.0.0/16']);
    // Who has no address gets one later; the others keep theirs.
    expect(h.profile(9, 'next', '192.168.1.9')).toBe('192.168.1.9');
    expect(codeOf(() => h.profile(8, 'x', '192.168.1.5'))).toBe('ADDRESS_TAKEN');
    h.restart();
    expect(h.specOf(key(2))?.allowedIps).toEqual(['192.168.1.6/32', '10.20.0.0/16']);
    const again = { ...sources, registry: h.registry };
    expect(importPeople(peers, again, false).skipped).toHaveLength(5);
  });

  it('comes over not at all when somebody does not fit; all of it is named', () => {
    h.profile(7, 'anna');
    h.profile(3, 'other');
    const text = WG0.replace('192.168.1.8/32', '10.9.0.8/32').replace(
      '10.20.0.0/16',
      '192.168.0.0/16',
    );
    const { peers } = readImport(file('wg0.conf', text));
    const sources = { registry: h.registry, invites: [], now: h.now };
    let message = '';
    try {
      importPeople(peers, sources, false);
    } catch (error) {
      message = (error as Error).message;
    }
    for (const part of [
      'anna: the name is taken here',
      'Bose-Worter does not get 192.168.0.0/16',
      'phone: its key is in use here',
      'phone-2: 10.9.0.8 is outside the tunnel network',
    ]) {
      expect(message).toContain(part);
    }
    expect(h.store.peers()).toHaveLength(2);
    expect(h.specOf(key(1))).toBeUndefined();
  });
});

describe('OpenVPN', () => {
  it('leaves addresses and networks that wait for invites of the same names', () => {
    const ccd = join(folder, 'ccd');
    mkdirSync(ccd);
    writeFileSync(
      join(ccd, 'office'),
      'ifconfig-push 192.168.1.20 255.255.255.0\niroute 10.20.0.0 255.255.0.0 # all\npush "route x"\n',
    );
    writeFileSync(join(ccd, 'DEFAULT'), 'ifconfig-push 1.2.3.4 5.6.7.8\n');
    symlinkSync('../template', join(ccd, 'shared'));
    file('template', 'iroute 10.40.0.0 255.255.0.0\n');
    mkdirSync(join(ccd, 'old'));
    symlinkSync('ccd', join(folder, 'link'));
    const { peers, notes } = readImport(join(folder, 'link'));
    expect(peers.map(({ name, networks }) => [name, networks])).toEqual([
      ['office', ['10.20.0.0/16']],
      ['shared', ['10.40.0.0/16']],
    ]);
    expect(notes).toHaveLength(2);
    const list = readImport(
      file('ipp.txt', '# comment\nlaptop,192.168.1.2\nphone,192.168.1.30,fd00::2\n'),
    );
    const sources = () => ({ registry: h.registry, invites: [], now: h.now });
    importPeople(peers, sources(), false);
    const reply = importPeople(list.peers, sources(), false);
    expect(reply.reservations.map((r) => r.name)).toEqual(['laptop', 'phone']);
    expect(reply.notes).toEqual(['phone: fd00::2 is left out, the tunnel has no IPv6 network']);
    h.restart();
    expect(listed()).toEqual([
      ...['laptop 192.168.1.2 ', 'office 192.168.1.20 10.20.0.0/16'],
      ...['phone 192.168.1.30 ', 'shared - 10.40.0.0/16'],
    ]);
    // Nobody else gets them.
    expect(h.profile(1, 'x')).toBe('192.168.1.3');
    h.invite(50, 'office');
    h.enrol(50, 2);
    expect(h.lease(2)).toEqual({ type: 'leased', address: '192.168.1.20' });
    expect(h.specOf(key(2))?.allowedIps).toEqual(['192.168.1.20/32', '10.20.0.0/16']);
    expect(h.profile(3, 'laptop')).toBe('192.168.1.2');
    h.registry.revoke('shared', h.now);
    expect(listed()).toEqual(['phone 192.168.1.30 ']);
    expect(peersText(everybody())).toMatch(/\n\nphone {2}192\.168\.1\.30 {2}reserved by an import/);
  });

  it.each([
    ['list first', ['ipp.txt', 'ccd']],
    ['list last', ['ccd', 'ipp.txt']],
  ])('brings the address of the list and the networks of the folder together, %s', (_, order) => {
    file('ipp.txt', 'office,192.168.1.20\n');
    mkdirSync(join(folder, 'ccd'));
    writeFileSync(join(folder, 'ccd', 'office'), 'iroute 10.20.0.0 255.255.0.0\n');
    for (const from of order) {
      const sources = { registry: h.registry, invites: [], now: h.now };
      importPeople(readImport(join(folder, from)).peers, sources, false);
    }
    h.restart();
    expect(h.profile(1, 'office')).toBe('192.168.1.20');
    expect(h.specOf(key(1))?.allowedIps).toEqual(['192.168.1.20/32', '10.20.0.0/16']);
  });

  it('leaves one address to a name: the last import, an invite, nobody after revoke', () => {
    const take = (text: string) => {
      const sources = { registry: h.registry, invites: h.store.invites(), now: h.now };
      importPeople(readImport(file('people', text)).peers, sources, false);
    };
    take('anna,192.168.1.2\nbert,192.168.1.3\nclaus,192.168.1.4\n');
    take('anna,192.168.1.5\n');
    take(`[Interface]\n# bert\n[Peer]\nPublicKey = ${K(3)}\nAllowedIPs = 192.168.1.6/32\n`);
    // What the former ones left is free, what the later ones named is not.
    expect(h.profile(10, 'other')).toBe('192.168.1.2');
    expect(h.profile(11, 'another')).toBe('192.168.1.3');
    h.invite(50, 'claus', '192.168.1.4');
    h.registry.revoke('claus', h.now);
    expect(h.profile(12, 'third')).toBe('192.168.1.7');
    expect(h.registry.revoke('claus', h.now)).toBe(true);
    expect(h.registry.revoke('claus', h.now)).toBe(false);
    expect(h.profile(13, 'fourth')).toBe('192.168.1.4');
    h.invite(51, 'anna', '192.168.1.9');
    h.enrol(51, 1);
    expect(h.specOf(key(1))?.allowedIps).toEqual(['192.168.1.9/32']);
    expect(h.profile(14, 'fifth')).toBe('192.168.1.5');
  });

  it('does not give a name another address than the settings file', () => {
    h.restart({ fixed: { anna: { address: '192.168.1.40' } } });
    const { peers } = readImport(file('ipp.txt', 'anna,192.168.1.2\n'));
    const sources = { registry: h.registry, invites: [], now: h.now };
    expect(codeOf(() => importPeople(peers, sources, true))).toBe('IMPORT_REFUSED');
  });

  it('says which names had to change', () => {
    const list = 'Anna Müller,192.168.1.2\nanna-Müller,192.168.1.3\nAnna Muller,192.168.1.4\n';
    const { peers, notes } = readImport(file('ipp.txt', list));
    expect(peers.map((p) => p.name)).toEqual(['Anna-Muller', 'anna-Muller', 'Anna-Muller-2']);
    expect(notes).toEqual([
      '"Anna Müller" is called Anna-Muller here',
      '"anna-Müller" is called anna-Muller here',
      '"Anna Muller" is called Anna-Muller-2 here',
    ]);
  });

  it('keeps whole names, also those that begin with a word of the comments', () => {
    const list = 'client-anna,192.168.1.2\nclient,192.168.1.3\nName,192.168.1.4\n';
    const names = readImport(file('ipp.txt', list)).peers.map((p) => p.name);
    expect(names).toEqual(['client-anna', 'client', 'Name']);
    const ccd = join(folder, 'ccd');
    mkdirSync(ccd);
    writeFileSync(join(ccd, 'client-ben'), 'ifconfig-push 192.168.1.20 255.255.255.0\n');
    expect(readImport(ccd).peers.map((p) => p.name)).toEqual(['client-ben']);
  });

  it.each([
    ['ipp.txt', 'laptop\n'],
    ['ipp.txt', 'laptop,10.8.0.300\n'],
    ['wg0.conf', '[Interface]\n[Peer]\nAllowedIPs = 10.0.0.1/32\n'],
  ])('%s with %j is refused', (name, text) => {
    expect(codeOf(() => readImport(file(name, text)))).toMatch(/IMPORT_UNREADABLE|PROFILE_INVALID/);
  });

  it('a missing file is an error with its own code', () => {
    expect(codeOf(() => readImport(join(folder, 'none')))).toBe('IMPORT_UNREADABLE');
  });

  it('refused names the first problems, and how many there are', () => {
    const lines = Array.from({ length: 25 }, (_, n) => `person${n},10.8.0.${n + 2}\n`).join('');
    const { peers } = readImport(file('ipp.txt', lines));
    const attempt = () =>
      importPeople(peers, { registry: h.registry, invites: [], now: h.now }, false);
    expect(attempt).toThrow(/: person0: .*; person19: [^;]*; and 5 more problems$/);
    expect([...h.registry.peers()]).toEqual([]);
  });
});

/** A plain file of ours that other programs write, remove or replace. */
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Dns } from '../../client/dns.ts';
import { Journal } from '../../shared/system/journal.ts';

const WISH = { servers: ['10.9.0.53'], domains: [], everything: true };
const run = async () => ({ stdout: '', stderr: '' });

let folder: string;
let file: string;
let dns: Dns;
let ours: string;
let now: number;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), `culvert-kept-${process.pid}-`));
  file = join(folder, 'resolv.conf');
  now = 0;
  writeFileSync(file, 'before\n');
  dns = new Dns({ device: 'cvc0', journal: new Journal(journalPath(), run), run, file });
  expect(await dns.apply(WISH)).toMatchObject({ keeper: 'file', problem: null });
  ours = text();
});
afterEach(() => rmSync(folder, { recursive: true }));

const journalPath = () => join(folder, 'journal');
const text = () => readFileSync(file, 'utf8');
const look = () => {
  now += 250;
  return dns.keep(now);
};
/** As the next program does after a crash. */
const cleanUp = () => new Journal(journalPath(), run).undoAll();

test('what another program wrote is replaced, and is what comes back', async () => {
  expect(look()).toBeNull();
  writeFileSync(file, '# dh');
  expect(look()).toBeNull();
  // The first look may have seen half of it.
  writeFileSync(file, '# dhcp\n');
  expect(look()).toBeNull();
  expect(text()).toBe('# dhcp\n');
  expect(look()).toMatch(/another program changed .*resolv\.conf/);
  expect(text()).toBe(ours);
  expect(look()).toBeNull();
  expect(dns.state).toMatchObject({ problem: null });
  expect(await cleanUp()).toEqual([]);
  expect(text()).toBe('# dhcp\n');
});

test.each(['missing', 'empty'])(
  'a file that is %s is put back, and is not remembered',
  async (how) => {
    if (how === 'missing') rmSync(file);
    else writeFileSync(file, '');
    look();
    expect(look()).toMatch(/are back/);
    expect(text()).toBe(ours);
    rmSync(file);
    expect(await cleanUp()).toEqual([]);
    expect(text()).toBe('before\n');
  },
);

test('lines that somebody edits in ours are replaced, and do not come back as what was there', async () => {
  for (const edited of [`${ours}options edns0\n`, ours.replace('10.9.0.53', '192.0.2.1')]) {
    writeFileSync(file, edited);
    look();
    expect(look()).toMatch(/are back/);
    expect(text()).toBe(ours);
  }
  expect(await cleanUp()).toEqual([]);
  expect(text()).toBe('before\n');
});

test('what somebody has made of the file of a tunnel that is gone is replaced, and comes back', async () => {
  const edited = `${ours}nameserver 192.0.2.1\n`;
  writeFileSync(file, edited);
  expect(await cleanUp()).toEqual([]);
  expect(text()).toBe(edited);
  dns = new Dns({ device: 'cvc0', journal: new Journal(journalPath(), run), run, file });
  expect(await dns.apply(WISH)).toMatchObject({ keeper: 'file', problem: null });
  await cleanUp();
  expect(text()).toBe(edited);
});

test('a program that writes it again and again has it in the end, and this is a problem', async () => {
  const rewrite = (round: number) => {
    writeFileSync(file, `# ${round}\n`);
    look();
    return look();
  };
  for (let round = 1; round <= 5; round++) expect(rewrite(round)).toMatch(/are back/);
  expect(rewrite(6)).toMatch(/not asked through the tunnel: .*again and again/);
  expect(dns.state).toMatchObject({ keeper: 'file', problem: expect.stringMatching(/again/) });
  expect(await dns.verify()).toMatchObject({ problem: expect.stringMatching(/again/) });
  expect([look(), look(), text()]).toEqual([null, null, '# 6\n']);
  await cleanUp();
  expect(text()).toBe('# 6\n');
});

test('while nothing can be written down, as on a full disk, it is tried again, and said once', () => {
  mkdirSync(`${journalPath()}.new`);
  writeFileSync(file, 'nameserver 10.0.0.1\n');
  expect([look(), look(), look(), look()].map((said) => typeof said)).toEqual([
    ...['object', 'string', 'object', 'object'],
  ]);
  expect(dns.state?.problem).toContain('cannot write the journal');
  expect(text()).toBe('nameserver 10.0.0.1\n');
  rmdirSync(`${journalPath()}.new`);
  expect(look()).toContain('are back in it');
  expect([text(), dns.state?.problem]).toEqual([ours, null]);
});

test('who writes it now and then is no fight', () => {
  for (let round = 1; round <= 20; round++) {
    now += 20_000;
    writeFileSync(file, `# ${round}\n`);
    look();
    expect(look()).toMatch(/are back/);
  }
  expect(text()).toBe(ours);
});

test('a link in its place, and the file of another tunnel, are left alone', async () => {
  rmSync(file);
  symlinkSync('stub', file);
  look();
  expect(look()).toMatch(/resolv\.conf is a link to stub now/);
  expect(dns.state).toMatchObject({ problem: expect.stringMatching(/is a link/) });
  await cleanUp();
  expect(readlinkSync(file)).toBe('stub');

  rmSync(file);
  expect(await dns.apply({ ...WISH, servers: ['10.9.0.54'] })).toMatchObject({ problem: null });
  writeFileSync(file, ours);
  look();
  expect(look()).toMatch(/another tunnel/);
  expect(text()).toBe(ours);
});

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { findPlace, tunnelMeant } from '../../client/place.ts';

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
});

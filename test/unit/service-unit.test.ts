/** The unit of the server: what systemd thinks of its sandbox, and the paths in it. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { statusLine, sumTraffic } from '../../server/service-notices.ts';
import { hiddenFromService, unitText } from '../../server/service-unit.ts';
import type { PeerId } from '../../shared/dataplane.ts';
import type { PeerStatus } from '../../shared/session/engine.ts';

const PATHS = { node: '/usr/bin/node', program: '/opt/culvert vpn/100%/cli.js' };
const directory = mkdtempSync(join(tmpdir(), 'culvert-unit-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe('the unit', () => {
  test.skipIf(spawnSync('systemd-analyze', ['--version']).status !== 0)(
    'is exposed no more than 2.5, by the judgement of systemd-analyze',
    () => {
      const file = join(directory, 'vpn-server.service');
      writeFileSync(file, unitText(PATHS, 443));
      const args = ['security', '--offline=yes', '--no-pager', '--threshold=25', file];
      const { status, stdout, stderr } = spawnSync('systemd-analyze', args, { encoding: 'utf8' });
      expect(stdout, stderr).toMatch(/Overall exposure level for vpn-server.service: [0-2][.]\d/);
      expect([status, stderr]).toEqual([0, '']);
    },
  );

  test('names the programs of this installation, escaped as systemd reads them', () => {
    const lines = unitText(PATHS, 6000).split('\n');
    const command = '/usr/bin/node "/opt/culvert vpn/100%%/cli.js"';
    expect(lines).toContain(`ExecStart=${command} start`);
    expect(lines).toContain(`ExecReload=${command} reload`);
    expect(lines).toContain(`ExecStopPost=-${command} cleanup`);
  });

  test('is of no use when its user cannot read the programs, and says which place is closed', () => {
    expect(hiddenFromService('/usr/bin/env')).toBe(null);
    expect(hiddenFromService('/root/culvert/dist/server/cli.js')).toBe('/root');
    expect(hiddenFromService('/etc/shadow')).toBe('/etc/shadow');
    expect(hiddenFromService('/opt/no such folder/cli.js')).toBe('/opt/no such folder');
  });

  test('has one privilege, and one more for a port below 1024', () => {
    expect(unitText(PATHS, 6000)).toContain('\nAmbientCapabilities=CAP_NET_ADMIN\n');
    const low = unitText(PATHS, 443);
    expect(low).toContain('\nAmbientCapabilities=CAP_NET_ADMIN CAP_NET_BIND_SERVICE\n');
    expect(low).toContain('\nCapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE\n');
  });
});

describe('the status line', () => {
  const traffic = (connected: number, bytesReceived: number, bytesSent: number) => {
    return { connected, bytesReceived, bytesSent };
  };

  test('says who is there and how much passes', () => {
    expect(statusLine(traffic(0, 0, 0), traffic(2, 10_240, 500), 5)).toBe(
      '2 peers connected, 2.0 KiB/s in, 100 B/s out',
    );
  });

  test('is not negative when a peer with traffic is removed', () => {
    expect(statusLine(traffic(2, 5000, 5000), traffic(1, 0, 0), 5)).toBe(
      '1 peer connected, 0 B/s in, 0 B/s out',
    );
  });

  test('counts connected peers and the bytes of all, but not keys of invites', () => {
    const peer = (id: number, connected: boolean) => {
      return { peer: id, connected, bytesReceived: 3, bytesSent: 4 };
    };
    const statuses = [peer(1, true), peer(2, false), peer(3, true)] as PeerStatus[];
    const members = [{ id: 1 as PeerId }, { id: 2 as PeerId }];
    expect(sumTraffic(statuses, members)).toEqual(traffic(1, 6, 8));
  });
});

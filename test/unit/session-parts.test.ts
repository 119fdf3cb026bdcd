/** Session indices, timer functions and statistics rows by themselves. */
import { expect, test } from 'vitest';
import {
  type DataPlane,
  DeviceColumn,
  DROP_REASONS,
  PeerColumn,
  type PeerId,
  STATS_COLUMNS,
} from '../../shared/dataplane.ts';
import { SessionIndexTable } from '../../shared/session/session-index.ts';
import { StatsRows } from '../../shared/session/status.ts';
import * as timers from '../../shared/session/timers.ts';
import {
  isUsable,
  jitter,
  needsRekeyOnReceive,
  needsRekeyOnSend,
  REKEY_AFTER_MESSAGES,
  REKEY_TIMEOUT_JITTER_MAX,
} from '../../shared/session/timers.ts';

test('an index is never 0 and never one in use; a released one may come again', () => {
  const drawn = [0, 5, 5, 5, 0xffffffff, 5];
  const table = new SessionIndexTable<string>(() => {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, drawn.shift()!, true);
    return bytes;
  });
  expect(table.acquire('a')).toBe(5);
  expect(table.acquire('b')).toBe(0xffffffff);
  expect([table.owner(5), table.owner(0xffffffff), table.owner(6)]).toEqual(['a', 'b', undefined]);
  table.release(5);
  expect(table.owner(5)).toBeUndefined();
  expect(table.acquire('c')).toBe(5);
});

test('the values are those of the paper and of protocol.md', () => {
  expect(timers).toMatchObject({
    TICK_MS: 250,
    REKEY_AFTER_TIME: 120_000,
    REJECT_AFTER_TIME: 180_000,
    REKEY_TIMEOUT: 5_000,
    KEEPALIVE_TIMEOUT: 10_000,
    REKEY_AFTER_MESSAGES: 2 ** 60,
    MAX_INITIATIONS: 20,
    REKEY_TIMEOUT_JITTER_MAX: 333,
    INITIATION_MIN_GAP: 20,
    WIPE_AFTER_TIME: 540_000,
    DEAD_PEER_TIMEOUT: 15_000,
    REKEY_ON_RECEIVE_AFTER: 165_000,
  });
});

test('jitter covers 0..333 ms and nothing else', () => {
  expect(jitter(() => Uint8Array.of(0, 0))).toBe(0);
  expect(jitter(() => Uint8Array.of(255, 255))).toBe(REKEY_TIMEOUT_JITTER_MAX);
});

test('key age: limits are exact', () => {
  const key = { role: 'initiator', birth: 1000 } as const;
  const responder = { role: 'responder', birth: 1000 } as const;
  expect([isUsable(key, 180_999), isUsable(key, 181_000)]).toEqual([true, false]);
  expect(needsRekeyOnSend(key, 121_000, 0)).toBe(false);
  expect(needsRekeyOnSend(key, 121_001, 0)).toBe(true);
  expect(needsRekeyOnSend(responder, 900_000, REKEY_AFTER_MESSAGES)).toBe(false);
  expect(needsRekeyOnSend(responder, 0, REKEY_AFTER_MESSAGES * 1.01)).toBe(true);
  expect(needsRekeyOnReceive(key, 166_000)).toBe(false);
  expect(needsRekeyOnReceive(key, 166_001)).toBe(true);
  expect(needsRekeyOnReceive(responder, 170_000)).toBe(false);
});

/** A data plane of which only the rows exist. */
function rowsOf(rows: Record<number, bigint>[]): StatsRows {
  const readStats = (into: BigUint64Array) => {
    rows.forEach((row, i) => {
      for (const [column, word] of Object.entries(row)) {
        const at = i * STATS_COLUMNS + Number(column);
        if ((i + 1) * STATS_COLUMNS <= into.length) into[at] = word;
      }
    });
    return rows.length;
  };
  const stats = new StatsRows();
  stats.read({ readStats } as unknown as DataPlane);
  return stats;
}

test('rows grow with the number of peers, and each peer is found', () => {
  const rows = rowsOf([{}, ...Array.from({ length: 500 }, (_, i) => ({ 0: BigInt(i + 7) }))]);
  expect(rows.count).toBe(501);
  expect(rows.rowOf(7 as PeerId)).toBe(1);
  expect(rows.rowOf(506 as PeerId)).toBe(500);
  expect(rows.rowOf(507 as PeerId)).toBe(0);
});

test('words above 32 bits are read whole', () => {
  const rows = rowsOf([{ [PeerColumn.bytesSent]: 0x1f_ffff_ffff_ffffn }]);
  expect(rows.get(0, PeerColumn.bytesSent)).toBe(Number.MAX_SAFE_INTEGER);
});

test('endpoints become text, IPv6 as RFC 5952 writes it', () => {
  const v6 = (high: bigint, low: bigint, scope = 0n) => ({
    [PeerColumn.endpoint]: 0x6_1770n,
    [PeerColumn.endpointHigh]: high,
    [PeerColumn.endpointLow]: low,
    [PeerColumn.endpointScope]: scope,
  });
  const rows = rowsOf([
    {},
    { [PeerColumn.endpoint]: 0x4_1770n, [PeerColumn.endpointLow]: 0xc0a80101n },
    v6(0n, 0n),
    v6(0n, 1n),
    v6(0x20010db8_00000000n, 1n),
    v6(0x20010db8_00010000n, 0x00000000_00010001n),
    v6(0x20010db8_00010000n, 0x00010001_00010001n),
    v6(0x20010db8_00000000n, 0x00010000_00000000n),
    v6(0xfe800000_00000000n, 0xdeadbeefn, 3n),
    v6(0x00010002_00030004n, 0x00050006_00070008n),
  ]);
  const text = (row: number) => rows.endpoint(row)?.address;
  expect(rows.endpoint(0)).toBeNull();
  expect(rows.endpoint(1)).toEqual({ address: '192.168.1.1', port: 6000 });
  expect([2, 3, 4, 5, 6, 7, 8, 9].map(text)).toEqual([
    '::',
    '::1',
    '2001:db8::1',
    '2001:db8:1::1:1',
    '2001:db8:1:0:1:1:1:1',
    '2001:db8:0:0:1::',
    'fe80::dead:beef%3',
    '1:2:3:4:5:6:7:8',
  ]);
});

test('the device row is named', () => {
  const rows = rowsOf([
    {
      [DeviceColumn.now]: 12_345n,
      [DeviceColumn.underLoad]: 1n,
      [DeviceColumn.offloads]: 0b1010n,
      [DeviceColumn.mtu]: 1420n,
      [PeerColumn.drops + DROP_REASONS.indexOf('badMac1')]: 3n,
    },
  ]);
  const device = rows.device();
  expect(device).toMatchObject({ now: 12_345, underLoad: true, mtu: 1420, linkUp: false });
  expect(device.offloads).toEqual({ tunTcp: false, tunUdp: true, udpGso: false, udpGro: true });
  expect(device.drops.badMac1).toBe(3);
});

/** The tunnel's link: what others make of it is seen and put back, and nothing else is touched. */
import { beforeEach, expect, test } from 'vitest';
import { OwnLink } from '../../client/own-link.ts';
import { VpnError } from '../../shared/errors.ts';
import { bringUpArgs, TUNNEL_GROUP } from '../../shared/system/link.ts';
import type { Run } from '../../shared/system/run.ts';

const AS_SET = {
  ...{ ifindex: 7, ifname: 'cvc0', mtu: 1420, flags: ['POINTOPOINT', 'UP'] },
  ...{ group: String(TUNNEL_GROUP), gso_max_segs: 45 },
};
const OTHER = { ...AS_SET, ifindex: 8, ifname: 'cvc1', mtu: 1300, group: '0' };
const UP = ['ip', ...bringUpArgs('cvc0', 1420, false)].join(' ');

let link: Record<string, unknown> | null;
let ran: string[];
let refuse: (line: string) => boolean;
let why: string;
let own: OwnLink;

const run: Run = async (file, args) => {
  const line = [file, ...args].join(' ');
  if (args.includes('show')) {
    return { stdout: JSON.stringify([OTHER, ...(link ? [link] : [])]), stderr: '' };
  }
  ran.push(line);
  if (refuse(line)) {
    const cause = { file: 'ip', args: [], exitCode: 2, stderr: why };
    throw new VpnError('COMMAND_FAILED', why, { cause });
  }
  return { stdout: '', stderr: '' };
};

beforeEach(async () => {
  [link, ran, refuse, why] = [{ ...AS_SET }, [], () => false, 'RTNETLINK answers: Device busy'];
  own = new OwnLink('cvc0', run);
  expect(await own.keep(false)).toEqual([]);
  await own.bringUp(1420, false);
  expect(ran.splice(0)).toEqual([UP]);
  expect(own.mtu).toBe(1420);
});

test('a link that is as it was set is let alone: a command would be news to who watches', async () => {
  expect(await own.keep(false)).toEqual([]);
  // Old programs do not show it.
  const { gso_max_segs: _, ...without } = AS_SET;
  link = without;
  expect(await own.keep(false)).toEqual([]);
  link = null;
  expect(await own.keep(false)).toEqual([]);
  expect(ran).toEqual([]);
});

test.each([
  [{ mtu: 1300 }, 'MTU 1300'],
  [{ group: '0' }, 'group 0'],
  [{ flags: ['POINTOPOINT'] }, 'down'],
  [{ mtu: 9000, group: '5', flags: [] }, 'MTU 9000, group 5, down'],
])('%j is put back', async (change, told) => {
  link = { ...AS_SET, ...change };
  expect((await own.keep(false)).join(', ')).toBe(told);
  expect(ran).toEqual([UP]);
});

test('a host that has begun to forward lifts the limit of segments, which is nobody else', async () => {
  expect(await own.keep(true)).toEqual([]);
  expect(ran).toEqual([['ip', ...bringUpArgs('cvc0', 1420, true)].join(' ')]);
});

test('a link that was renamed has its name again, also where it has to be down for that', async () => {
  const rename = 'ip link set dev lan0 name cvc0';
  link = { ...AS_SET, ifname: 'lan0' };
  expect(await own.keep(false)).toEqual(['named lan0']);
  expect(ran.splice(0)).toEqual([rename, UP]);
  refuse = (line) => line === rename && !ran.some((one) => one.endsWith('down'));
  expect(await own.keep(false)).toEqual(['named lan0']);
  expect(ran).toEqual([rename, 'ip link set dev lan0 down', rename, UP]);
  refuse = (line) => line === rename;
  await expect(own.keep(false)).rejects.toThrow('busy');
  // Where another link has the name now, this one is not set down for nothing.
  ran.splice(0);
  why = 'RTNETLINK answers: File exists';
  await expect(own.keep(false)).rejects.toThrow('File exists');
  expect(ran).toEqual([rename]);
});

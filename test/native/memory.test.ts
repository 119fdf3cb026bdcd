/** What a program gives back to the kernel once it runs. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { giveBackMemory } from '../../native/index.ts';
import { hash } from '../../shared/noise/crypto.ts';

/** Resident pages of program files in this process, KiB (proc(5)); the kernel counts roughly. */
function residentFileKib(): number {
  const status = readFileSync('/proc/self/status', 'utf8');
  return Number(/^RssFile:\s+(\d+)/m.exec(status)?.[1]);
}

test('gives back what of node and its libraries is not in use, and works as before', () => {
  const before = hash(Uint8Array.of(1));
  const resident = residentFileKib();
  giveBackMemory();
  expect(residentFileKib()).toBeLessThan(resident * 0.7);
  expect(hash(Uint8Array.of(1))).toEqual(before);
});

/**
 * The last lease of a server, as it came, in the folder of what is remembered of it: lease.json.
 * It is for looking at, before there is a connection; a connection always asks for a new one.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeOwnerOnly } from '../keys/key-file.ts';
import { type Lease, leaseContents } from '../shared/control/messages.ts';
import type { Logger } from '../shared/log.ts';

/** Writes it down when it differs; a full disk must not end the tunnel: it is only logged. */
export function rememberLease(directory: string, lease: Lease, log: Logger): void {
  const text = `${JSON.stringify(leaseContents.parse(lease))}\n`;
  try {
    if (readText(directory) !== text) writeOwnerOnly(fileIn(directory), text, true);
  } catch (error) {
    log.error({ err: error }, 'the lease could not be written down');
  }
}

/** null: none is remembered, or it cannot be read. */
export function rememberedLease(directory: string): Lease | null {
  try {
    return leaseContents.parse(JSON.parse(readText(directory) ?? 'null')) as Lease;
  } catch {
    return null;
  }
}

function readText(directory: string): string | null {
  try {
    return readFileSync(fileIn(directory), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

function fileIn(directory: string): string {
  return join(directory, 'lease.json');
}

/** A name server in the tests' networks, and hosts that ask it. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Net } from './harness.ts';
import { ownFiles } from './host-state.ts';
import type { Program } from './program.ts';

const NAMES = fileURLToPath(new URL('applications/names.mjs', import.meta.url));

export interface NameServer {
  /** Says `asked NAME TYPE` for each question. */
  readonly program: Program;
  /** The file to write another answer to. */
  readonly answer: string;
}

/** Serves `answer` for every name at `address` of a host. */
export async function startNameServer(
  net: Net,
  host: string,
  address: string,
  answer: string,
): Promise<NameServer> {
  const file = join(net.directory, `answer-${address}`);
  writeFileSync(file, answer);
  const program = net.start(host, process.execPath, [NAMES, address, file]);
  await program.says(/ready/);
  return { program, answer: file };
}

/** Makes a host ask the name server at `address`; becomes part of what it is compared with. */
export function askNameServer(net: Net, host: string, address: string): void {
  const file = join(ownFiles(net.namespace(host)), 'resolv.conf');
  writeFileSync(file, `nameserver ${address}\n`);
  net.remember();
}

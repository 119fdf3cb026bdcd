/** Exchanges between two hosts that are checked by content (applications/content.mjs). */
import { fileURLToPath } from 'node:url';
import type { Net } from './harness.ts';

const file = (name: string) => fileURLToPath(new URL(`applications/${name}`, import.meta.url));
const APPLICATION = file('content.mjs');
const SEGMENTS = file('segments.py');
const PORT = 5300;

export interface ExchangeOptions {
  /** TCP connections at once, default 1. */
  readonly connections?: number;
  /** TCP bytes over all connections, default 3 MB. */
  readonly bytes?: number;
  /** UDP datagrams, default 150. */
  readonly datagrams?: number;
  /** Largest UDP payload, default what IPv4 carries. */
  readonly largest?: number;
}

/** Starts the answering side at an address; it ends with the network. */
export async function answerContent(net: Net, host: string, ...addresses: string[]): Promise<void> {
  for (const address of addresses) {
    const args = [APPLICATION, 'serve', address, String(PORT)];
    await net.start(host, process.execPath, args).says(/ready/);
  }
}

let seed = 0;

/**
 * Sends random content from `from` on a host to the answering side at `to`; throws when anything
 * comes back changed or not at all.
 */
export async function exchangeContent(
  net: Net,
  host: string,
  from: string,
  to: string,
  options: ExchangeOptions = {},
): Promise<void> {
  const { connections = 1, bytes = 3_000_000, datagrams = 150, largest = 65_507 } = options;
  seed += 1;
  const numbers = [PORT, connections, bytes, datagrams, largest, seed * 7919].map(String);
  const args = [APPLICATION, 'exchange', from, to, ...numbers];
  await net.must(host, process.execPath, args, { timeoutMs: 40_000 });
}

/** The same with UDP datagrams that the application gives to the kernel in one piece. */
export async function exchangeSegments(
  net: Net,
  host: string,
  from: string,
  to: string,
): Promise<void> {
  await net.must(host, 'python3', [SEGMENTS, from, to, String(PORT)]);
}

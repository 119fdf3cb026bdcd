/** Stock WireGuard in a host: Debian's wireguard-go, configured with Debian's wg and wg-quick. */
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Net } from './harness.ts';
import type { Program } from './program.ts';
import { eventually } from './waiting.ts';

/** All namespaces share this folder, so device names are unique on the machine. */
const SOCKETS = '/var/run/wireguard';

let devices = 0;

/** A running wireguard-go. */
export interface StockDevice {
  readonly name: string;
  readonly program: Program;
}

/** A device name that nobody else uses; at most 15 bytes. */
export function uniqueDevice(): string {
  devices += 1;
  return `w${process.pid}x${devices}`;
}

/** Starts wireguard-go with what `wg setconf` reads, gives it an address and brings it up. */
export async function startWireguardGo(
  net: Net,
  host: string,
  setconf: string,
  address: string,
): Promise<StockDevice> {
  const name = uniqueDevice();
  const socket = join(SOCKETS, `${name}.sock`);
  rmSync(socket, { force: true });
  net.removeAtEnd(socket);
  const program = net.start(host, 'wireguard-go', ['-f', name], { env: { LOG_LEVEL: 'verbose' } });
  await eventually(`${socket} exists`, 10_000, () => existsSync(socket), { program });
  const file = join(net.directory, `${name}.setconf`);
  writeFileSync(file, setconf, { mode: 0o600 });
  await net.must(host, 'wg', ['setconf', name, file]);
  net.ip(host, 'address', 'add', address, 'dev', name);
  net.ip(host, 'link', 'set', name, 'mtu', '1420', 'up');
  // It notices its link a moment later, and drops what comes before.
  await program.says(/Interface state was Down, requested Up, now Up/);
  return { name, program };
}

/** What `wg setconf` takes of a wg-quick profile, as wg-quick itself strips it. */
export async function stripProfile(net: Net, host: string, profile: string): Promise<string> {
  const file = join(net.directory, `${uniqueDevice()}.conf`);
  writeFileSync(file, profile, { mode: 0o600 });
  return net.must(host, 'wg-quick', ['strip', file]);
}

/** A fresh private key with its public key. */
export async function newKeys(net: Net, host: string): Promise<{ secret: string; open: string }> {
  const secret = (await net.must(host, 'wg', ['genkey'])).trim();
  const open = (await net.must(host, 'wg', ['pubkey'], { input: `${secret}\n` })).trim();
  return { secret, open };
}

/** Unix time of the last handshake of the only peer, 0 without one. */
export async function lastHandshake(net: Net, host: string, device: string): Promise<number> {
  const text = await net.must(host, 'wg', ['show', device, 'latest-handshakes']);
  return Number(text.trim().split('\t')[1] ?? 0);
}

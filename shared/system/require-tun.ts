/** May this process make a tun device, or change the network? Asked before anything is changed. */
import { existsSync, readFileSync } from 'node:fs';
import { VpnError } from '../errors.ts';

/** Bit of CAP_NET_ADMIN in capability masks (capability.h of Linux). */
const CAP_NET_ADMIN = 12n;

/** Throws VpnError NO_TUN_DEVICE or NO_NET_ADMIN when no tun can be made here. */
export function requireTun(): void {
  if (!existsSync('/dev/net/tun')) {
    throw new VpnError('NO_TUN_DEVICE', 'there is no /dev/net/tun');
  }
  requireNetAdmin();
}

/** Throws VpnError NO_NET_ADMIN when this process may not change the network of its host. */
export function requireNetAdmin(): void {
  const mask = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1];
  if (((BigInt(`0x${mask ?? '0'}`) >> CAP_NET_ADMIN) & 1n) === 0n) {
    throw new VpnError('NO_NET_ADMIN', 'this process does not have CAP_NET_ADMIN');
  }
}

/**
 * IPv4 addresses and networks as numbers: text to value and back, membership.
 * Pure. The quick twin of shared/cidr.ts for the address pool; which addresses may be used is
 * decided in address-pool.ts and configuration.ts.
 */

/** An address as an unsigned 32-bit number in host order. */
export type Ipv4 = number & { readonly __brand: 'Ipv4' };

export interface Ipv4Network {
  /** Lowest address; its host bits are zero. */
  readonly base: Ipv4;
  readonly prefixLength: number;
}

/** Four decimal numbers without leading zeros; null for anything else. */
export function parseIpv4(text: string): Ipv4 | null {
  const parts = text.split('.');
  if (parts.length !== 4) return null;
  let value = 0;
  for (const part of parts) {
    if (!/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255) return null;
    value = value * 256 + Number(part);
  }
  return value as Ipv4;
}

export function formatIpv4(address: Ipv4): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff).join('.');
}

/** `address/length`; host bits are masked off. null for anything else. */
export function parseNetwork(text: string): Ipv4Network | null {
  const match = /^([\d.]+)\/(0|[1-9]\d?)$/.exec(text);
  const address = match === null ? null : parseIpv4(match[1]!);
  const prefixLength = match === null ? 0 : Number(match[2]);
  if (address === null || prefixLength > 32) return null;
  return { base: (address - (address % 2 ** (32 - prefixLength))) as Ipv4, prefixLength };
}

export function formatNetwork(network: Ipv4Network): string {
  return `${formatIpv4(network.base)}/${network.prefixLength}`;
}

/** The highest address, which is the broadcast address of a LAN. */
export function lastAddress(network: Ipv4Network): Ipv4 {
  return (network.base + 2 ** (32 - network.prefixLength) - 1) as Ipv4;
}

export function contains(network: Ipv4Network, address: Ipv4): boolean {
  return address >= network.base && address <= lastAddress(network);
}

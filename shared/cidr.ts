/**
 * Address ranges as text: parsing, masking, containment, for IPv4 and IPv6. Pure; knows no host.
 */
import { isIP } from 'node:net';

/** A range of addresses: the first one as a number, and how many leading bits count. */
export interface Cidr {
  readonly family: 4 | 6;
  /** The address as it was given, host bits included. */
  readonly address: bigint;
  readonly prefixLength: number;
}

/** Reads `address` or `address/length`; without a length the range is that one address. */
export function parseCidr(text: string): Cidr | null {
  const [literal, length, ...rest] = text.split('/') as [string, string | undefined, ...string[]];
  const family = isIP(literal);
  if (family === 0 || rest.length > 0 || literal.includes('%')) return null;
  const bits = family === 4 ? 32 : 128;
  if (length !== undefined && !/^\d{1,3}$/.test(length)) return null;
  const prefixLength = length === undefined ? bits : Number(length);
  if (prefixLength > bits) return null;
  const address = family === 4 ? parseIPv4(literal) : parseIPv6(literal);
  return { family: family as 4 | 6, address, prefixLength };
}

/** `address/length` with the host bits cleared. */
export function networkText(cidr: Cidr): string {
  return `${addressText(cidr.family, masked(cidr, cidr.prefixLength))}/${cidr.prefixLength}`;
}

/** `address/length` as it was given, host bits kept. */
export function cidrText(cidr: Cidr): string {
  return `${addressText(cidr.family, cidr.address)}/${cidr.prefixLength}`;
}

/** Whether every address of `inner` lies in `outer`. */
export function contains(outer: Cidr, inner: Cidr): boolean {
  if (outer.family !== inner.family || inner.prefixLength < outer.prefixLength) return false;
  return masked(outer, outer.prefixLength) === masked(inner, outer.prefixLength);
}

/** Whether the two ranges share an address. */
export function overlaps(a: Cidr, b: Cidr): boolean {
  return contains(a, b) || contains(b, a);
}

const PRIVATE = [
  '10.0.0.0/8', // RFC 1918
  '172.16.0.0/12',
  '192.168.0.0/16',
  '100.64.0.0/10', // RFC 6598, shared address space
  'fc00::/7', // RFC 4193, unique local
].map((text) => parseCidr(text)!);

/** Whether the range lies in address space that is for private use. */
export function isPrivate(cidr: Cidr): boolean {
  return PRIVATE.some((range) => contains(range, cidr));
}

const ON_HOST_OR_LINK = [
  '0.0.0.0/8', // RFC 1122
  '127.0.0.0/8',
  '169.254.0.0/16', // RFC 3927; also where clouds tell a host its secrets
  '224.0.0.0/4',
  '255.255.255.255/32',
  '::/127',
  '::ffff:0.0.0.0/96', // all of this in IPv4, once more
  'fe80::/10',
  'ff00::/8',
].map((text) => parseCidr(text)!);

/** Whether the range belongs to the host itself, to one link, or to groups: none that a tunnel leads to. */
export function isOnHostOrLink(cidr: Cidr): boolean {
  return ON_HOST_OR_LINK.some((range) => contains(range, cidr));
}

function masked(cidr: Cidr, prefixLength: number): bigint {
  const shift = BigInt((cidr.family === 4 ? 32 : 128) - prefixLength);
  return (cidr.address >> shift) << shift;
}

function parseIPv4(literal: string): bigint {
  return literal.split('.').reduce((sum, part) => (sum << 8n) | BigInt(part), 0n);
}

/** `literal` is valid; an embedded IPv4 tail (`::ffff:1.2.3.4`) counts as two groups. */
function parseIPv6(literal: string): bigint {
  const tail = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(literal);
  let text = literal;
  if (tail) {
    const v4 = parseIPv4(tail[2]!);
    text = `${tail[1]}${(v4 >> 16n).toString(16)}:${(v4 & 0xffffn).toString(16)}`;
  }
  const [head, rest] = text.split('::') as [string, string | undefined];
  const front = head === '' ? [] : head.split(':');
  const back = rest === undefined || rest === '' ? [] : rest.split(':');
  const gap = Array<string>(8 - front.length - back.length).fill('0');
  return [...front, ...gap, ...back].reduce((sum, g) => (sum << 16n) | BigInt(`0x${g}`), 0n);
}

/** Text as RFC 5952 wants it: lower case, the longest run of two or more zero groups as `::`. */
function addressText(family: 4 | 6, value: bigint): string {
  if (family === 4) return [24n, 16n, 8n, 0n].map((s) => (value >> s) & 0xffn).join('.');
  const groups = Array.from({ length: 8 }, (_, i) => (value >> BigInt(112 - 16 * i)) & 0xffffn);
  let [start, length] = [0, 1];
  for (let i = 0; i < 8; i++) {
    let end = i;
    while (end < 8 && groups[end] === 0n) end++;
    if (end - i > length) [start, length] = [i, end - i];
  }
  const hex = groups.map((g) => g.toString(16));
  if (length < 2) return hex.join(':');
  return `${hex.slice(0, start).join(':')}::${hex.slice(start + length).join(':')}`;
}

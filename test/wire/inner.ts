/**
 * Inner packets by hand: IPv4 and IPv6 headers, ICMP echo, UDP, TCP SYN, with their checksums, and
 * the reader that the test peer checks received plaintexts with (RFC 791, 8200, 792, 4443, 768,
 * 9293). Knows nothing of tunnels.
 */
import { isZero, join, WireViolation } from './primitives.ts';

const ICMP = 1;
const TCP = 6;
const UDP = 17;
const ICMPV6 = 58;

/** What a plaintext turned out to be. */
export type Inner =
  | { readonly kind: 'keepalive' }
  | { readonly kind: 'control'; readonly bytes: Uint8Array }
  | IpPacket;

export interface IpPacket {
  readonly kind: 'v4' | 'v6';
  readonly source: string;
  readonly destination: string;
  readonly protocol: number;
  readonly ttl: number;
  /** Everything after the IP header, padding removed. */
  readonly payload: Uint8Array;
  /** The packet without padding. */
  readonly bytes: Uint8Array;
}

/** The ones' complement checksum of RFC 1071. */
export function checksum(...parts: readonly Uint8Array[]): number {
  const all = join(...parts);
  let sum = 0;
  for (let i = 0; i < all.length; i += 2) sum += (all[i]! << 8) | (all[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function be16(value: number): Uint8Array {
  return Uint8Array.of((value >>> 8) & 255, value & 255);
}

/** Four or sixteen bytes of an address in text form. */
export function addressBytes(text: string): Uint8Array {
  if (!text.includes(':')) return Uint8Array.from(text.split('.').map(Number));
  const [head, tail] = text.split('::') as [string, string | undefined];
  const words = (part: string | undefined) => (part ? part.split(':') : []);
  const left = words(head);
  const right = words(tail);
  const gap = tail === undefined ? 0 : 8 - left.length - right.length;
  const all = [...left, ...Array<string>(gap).fill('0'), ...right];
  return join(...all.map((w) => be16(Number.parseInt(w, 16))));
}

/** Text of an address: dotted quad, or eight groups without compression. */
export function addressText(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join('.');
  const groups: string[] = [];
  for (let i = 0; i < 16; i += 2) groups.push(((bytes[i]! << 8) | bytes[i + 1]!).toString(16));
  return groups.join(':');
}

export interface IpOptions {
  readonly ttl?: number;
  readonly identification?: number;
  /** Written into the length field in place of the true one. */
  readonly claimedLength?: number;
}

/** An IP packet of the family of its addresses. */
export function ip(
  source: string,
  destination: string,
  protocol: number,
  payload: Uint8Array,
  options: IpOptions = {},
): Uint8Array {
  const src = addressBytes(source);
  const dst = addressBytes(destination);
  const ttl = options.ttl ?? 64;
  if (src.length === 16) {
    const length = be16(options.claimedLength ?? payload.length);
    return join(
      Uint8Array.of(0x60, 0, 0, 0),
      length,
      Uint8Array.of(protocol, ttl),
      src,
      dst,
      payload,
    );
  }
  const header = join(
    Uint8Array.of(0x45, 0),
    be16(options.claimedLength ?? 20 + payload.length),
    be16(options.identification ?? 0),
    Uint8Array.of(0x40, 0, ttl, protocol, 0, 0),
    src,
    dst,
  );
  header.set(be16(checksum(header)), 10);
  return join(header, payload);
}

function pseudoHeader(source: string, destination: string, protocol: number, length: number) {
  const src = addressBytes(source);
  const dst = addressBytes(destination);
  return src.length === 16
    ? join(src, dst, be16(0), be16(length), Uint8Array.of(0, 0, 0, protocol))
    : join(src, dst, Uint8Array.of(0, protocol), be16(length));
}

/** ICMP or ICMPv6 echo request (or reply) with its checksum. */
export function echo(
  source: string,
  destination: string,
  id: number,
  sequence: number,
  body: Uint8Array = new Uint8Array(32),
  options: IpOptions & { readonly reply?: boolean } = {},
): Uint8Array {
  const v6 = source.includes(':');
  const type = v6 ? (options.reply ? 129 : 128) : options.reply ? 0 : 8;
  const message = join(Uint8Array.of(type, 0, 0, 0), be16(id), be16(sequence), body);
  const pseudo = v6 ? pseudoHeader(source, destination, ICMPV6, message.length) : new Uint8Array(0);
  message.set(be16(checksum(pseudo, message)), 2);
  return ip(source, destination, v6 ? ICMPV6 : ICMP, message, options);
}

/** A UDP datagram with its checksum. */
export function udp(
  source: string,
  sourcePort: number,
  destination: string,
  destinationPort: number,
  body: Uint8Array,
  options: IpOptions = {},
): Uint8Array {
  const length = 8 + body.length;
  const segment = join(be16(sourcePort), be16(destinationPort), be16(length), be16(0), body);
  const sum = checksum(pseudoHeader(source, destination, UDP, length), segment);
  segment.set(be16(sum === 0 ? 0xffff : sum), 6);
  return ip(source, destination, UDP, segment, options);
}

/** A TCP SYN without options, with its checksum. */
export function tcpSyn(
  source: string,
  sourcePort: number,
  destination: string,
  destinationPort: number,
  sequence: number,
): Uint8Array {
  const segment = Buffer.alloc(20);
  segment.writeUInt16BE(sourcePort, 0);
  segment.writeUInt16BE(destinationPort, 2);
  segment.writeUInt32BE(sequence >>> 0, 4);
  segment.writeUInt16BE(0x5002, 12);
  segment.writeUInt16BE(64240, 14);
  segment.writeUInt16BE(
    checksum(pseudoHeader(source, destination, TCP, segment.length), segment),
    16,
  );
  return ip(source, destination, TCP, new Uint8Array(segment));
}

/**
 * Classifies a plaintext and checks its padding: zero, and exactly as much as the rules ask for
 * under `mtu` (to a multiple of 16, never past the MTU). Throws WireViolation.
 */
export function readInner(plain: Uint8Array, mtu: number): Inner {
  if (plain.length === 0) return { kind: 'keepalive' };
  const version = plain[0]! >>> 4;
  if (version !== 4 && version !== 6) return { kind: 'control', bytes: plain };
  const view = Buffer.from(plain);
  if (plain.length < (version === 4 ? 20 : 40)) throw new WireViolation('IP header is cut short');
  const length = version === 4 ? view.readUInt16BE(2) : 40 + view.readUInt16BE(4);
  if (length > plain.length) throw new WireViolation('IP length exceeds the plaintext');
  const padded = paddedLength(length, mtu);
  if (plain.length !== padded) {
    throw new WireViolation(`${length} bytes were padded to ${plain.length} instead of ${padded}`);
  }
  if (!isZero(plain.subarray(length))) throw new WireViolation('padding is not zero');
  const bytes = plain.slice(0, length);
  return version === 4 ? readV4(bytes) : readV6(bytes);
}

/** Length after padding: a multiple of 16, but not past the MTU, counted in the last MTU's worth. */
export function paddedLength(length: number, mtu: number): number {
  const last = length > mtu ? length % mtu : length;
  return length - last + Math.min(mtu, Math.ceil(last / 16) * 16);
}

function readV4(bytes: Uint8Array): IpPacket {
  const headerBytes = (bytes[0]! & 15) * 4;
  if (headerBytes < 20 || headerBytes > bytes.length) throw new WireViolation('bad IPv4 header');
  if (checksum(bytes.subarray(0, headerBytes)) !== 0) {
    throw new WireViolation('IPv4 header checksum is wrong');
  }
  return {
    kind: 'v4',
    source: addressText(bytes.subarray(12, 16)),
    destination: addressText(bytes.subarray(16, 20)),
    protocol: bytes[9]!,
    ttl: bytes[8]!,
    payload: bytes.slice(headerBytes),
    bytes,
  };
}

function readV6(bytes: Uint8Array): IpPacket {
  return {
    kind: 'v6',
    source: addressText(bytes.subarray(8, 24)),
    destination: addressText(bytes.subarray(24, 40)),
    protocol: bytes[6]!,
    ttl: bytes[7]!,
    payload: bytes.slice(40),
    bytes,
  };
}

/** Identifier and sequence of an echo reply addressed to `address`, else null. */
export function echoReplyOf(
  inner: Inner,
): { readonly id: number; readonly sequence: number; readonly body: Uint8Array } | null {
  if (inner.kind !== 'v4' && inner.kind !== 'v6') return null;
  const type = inner.kind === 'v4' ? 0 : 129;
  if (inner.protocol !== (inner.kind === 'v4' ? ICMP : ICMPV6) || inner.payload[0] !== type) {
    return null;
  }
  const view = Buffer.from(inner.payload);
  return { id: view.readUInt16BE(4), sequence: view.readUInt16BE(6), body: inner.payload.slice(8) };
}

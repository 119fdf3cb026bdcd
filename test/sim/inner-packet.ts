/** Inner IP packets of tests: made, taken apart, and matched against prefixes, all slowly. */
import { Address4, Address6 } from 'ip-address';

export interface InnerPacket {
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
  readonly hopLimit: number;
  /** Its own length, padding left out. */
  readonly length: number;
}

/** 4 or 16 bytes of an address literal. */
export function addressBytes(address: string): Uint8Array {
  return address.includes(':')
    ? padLeft(new Address6(address).toByteArray(), 16)
    : padLeft(new Address4(address).toArray(), 4);
}

/** An IPv4 or IPv6 packet of protocol 253 (RFC 3692) with this payload. */
export function ipPacket(
  source: string,
  destination: string,
  payload: string | Uint8Array = 'x',
  hopLimit = 64,
): Uint8Array {
  const body = typeof payload === 'string' ? new TextEncoder().encode(payload) : payload;
  const from = addressBytes(source);
  const to = addressBytes(destination);
  const head = from.length === 4 ? 20 : 40;
  const packet = new Uint8Array(head + body.length);
  const view = new DataView(packet.buffer);
  if (from.length === 4) {
    packet[0] = 0x45;
    view.setUint16(2, packet.length);
    packet[8] = hopLimit;
    packet[9] = 253;
    packet.set(from, 12);
    packet.set(to, 16);
    view.setUint16(10, checksum(packet.subarray(0, 20)));
  } else {
    packet[0] = 0x60;
    view.setUint16(4, body.length);
    packet[6] = 253;
    packet[7] = hopLimit;
    packet.set(from, 8);
    packet.set(to, 24);
  }
  packet.set(body, head);
  return packet;
}

/** Payload of a packet that ipPacket made, as text. */
export function payloadText(packet: Uint8Array): string {
  return new TextDecoder().decode(packet.subarray(packet[0]! >> 4 === 4 ? 20 : 40));
}

/** Takes an IP packet apart; null when it is not one or claims more bytes than there are. */
export function parseInner(bytes: Uint8Array): InnerPacket | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = bytes[0]! >> 4;
  if (version === 4 && bytes.length >= 20) {
    const length = view.getUint16(2);
    if (length < 20 || length > bytes.length) return null;
    const [source, destination] = [bytes.slice(12, 16), bytes.slice(16, 20)];
    return { source, destination, hopLimit: bytes[8]!, length };
  }
  if (version === 6 && bytes.length >= 40) {
    const length = 40 + view.getUint16(4);
    if (length > bytes.length) return null;
    const [source, destination] = [bytes.slice(8, 24), bytes.slice(24, 40)];
    return { source, destination, hopLimit: bytes[7]!, length };
  }
  return null;
}

/** One hop less, with the IPv4 header checksum made anew. */
export function decrementHopLimit(packet: Uint8Array): void {
  if (packet[0]! >> 4 === 6) {
    packet[7] = packet[7]! - 1;
    return;
  }
  packet[8] = packet[8]! - 1;
  packet[10] = packet[11] = 0;
  const sum = checksum(packet.subarray(0, 20));
  packet[10] = sum >> 8;
  packet[11] = sum & 255;
}

export interface Prefix {
  readonly address: Uint8Array;
  readonly bits: number;
}

/** `address/length` with the host bits cleared. */
export function parsePrefix(text: string): Prefix {
  const [literal, bits] = text.split('/') as [string, string];
  const address = addressBytes(literal);
  for (let i = Number(bits); i < address.length * 8; i++) {
    address[i >> 3] = address[i >> 3]! & ~(0x80 >> (i & 7));
  }
  return { address, bits: Number(bits) };
}

/** True when the address lies in the prefix. */
export function prefixHolds(prefix: Prefix, address: Uint8Array): boolean {
  if (prefix.address.length !== address.length) return false;
  for (let i = 0; i < prefix.bits; i++) {
    const bit = 0x80 >> (i & 7);
    if ((prefix.address[i >> 3]! & bit) !== (address[i >> 3]! & bit)) return false;
  }
  return true;
}

function checksum(header: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < header.length; i += 2) sum += (header[i]! << 8) | header[i + 1]!;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function padLeft(bytes: readonly number[], length: number): Uint8Array {
  const out = new Uint8Array(length);
  out.set(bytes, length - bytes.length);
  return out;
}

/** Records what crosses a device with tcpdump and reads the file: pcap, Ethernet or raw IP. */
import { readFileSync } from 'node:fs';
import type { Program } from './program.ts';
import { delay, eventually } from './waiting.ts';

/** One captured IPv4 UDP datagram. */
export interface Datagram {
  readonly source: string;
  readonly sourcePort: number;
  readonly destination: string;
  readonly destinationPort: number;
  readonly payload: Uint8Array;
}

/** One captured frame. */
export interface Frame {
  /** Whole frame as it was on the device. */
  readonly bytes: Buffer;
  /** EtherType (0x0800 IPv4, 0x0806 ARP, 0x86dd IPv6). */
  readonly etherType: number;
  /** Set when it is an unfragmented IPv4 UDP packet. */
  readonly datagram: Datagram | undefined;
}

const LINKTYPE_ETHERNET = 1;
const LINKTYPE_RAW = 101;
const PCAP_MAGIC = 0xa1b2c3d4;
const PCAP_HEADER = 24;
const RECORD_HEADER = 16;
/** What tcpdump says on SIGUSR1 and at its end. */
const COUNTS = /(\d+) packets? captured, (\d+) packets? received by filter/;

/** A running tcpdump and its file. */
export class Capture {
  readonly #tcpdump: Program;
  readonly #file: string;

  constructor(tcpdump: Program, file: string) {
    this.#tcpdump = tcpdump;
    this.#file = file;
  }

  /** Waits until tcpdump listens. */
  async started(): Promise<this> {
    await this.#tcpdump.says(/listening on/);
    return this;
  }

  /** Ends the capture and returns every frame; throws when tcpdump lost some. */
  async stop(): Promise<Frame[]> {
    await delay(300);
    // What waits in its buffer when it is ended would be missing without a word.
    const { received } = await this.#counts();
    const caughtUp = async () => (await this.#counts()).captured >= received;
    await eventually('tcpdump has written what it received', 10_000, caughtUp, { every: 20 });
    this.#tcpdump.signal('SIGINT');
    await this.#tcpdump.end();
    const lost = /([1-9]\d*) packets? dropped by kernel/.exec(this.#tcpdump.stderr);
    if (lost) throw new Error(`the capture is incomplete: ${lost[0]}`);
    return parsePcap(readFileSync(this.#file));
  }

  /** Frames that tcpdump has written, and those that the kernel has kept for it until now. */
  async #counts(): Promise<{ captured: number; received: number }> {
    const before = this.#tcpdump.stderr.length;
    this.#tcpdump.signal('SIGUSR1');
    const said = await eventually(
      'tcpdump says how much it has',
      10_000,
      () => COUNTS.exec(this.#tcpdump.stderr.slice(before)),
      { every: 10, program: this.#tcpdump },
    );
    return { captured: Number(said[1]), received: Number(said[2]) };
  }

  /** The frames written so far, while the capture goes on. */
  soFar(): Frame[] {
    return parsePcap(readFileSync(this.#file));
  }
}

/** Parses a little-endian pcap file (libpcap's file format, microsecond magic). */
export function parsePcap(file: Buffer): Frame[] {
  if (file.length < PCAP_HEADER || file.readUInt32LE(0) !== PCAP_MAGIC) {
    throw new Error('not a little-endian pcap file');
  }
  const linkType = file.readUInt32LE(20) & 0xffff;
  if (linkType !== LINKTYPE_ETHERNET && linkType !== LINKTYPE_RAW) {
    throw new Error(`pcap link type ${linkType} is not supported`);
  }
  const frames: Frame[] = [];
  let at = PCAP_HEADER;
  while (at + RECORD_HEADER <= file.length) {
    const length = file.readUInt32LE(at + 8);
    const start = at + RECORD_HEADER;
    if (start + length > file.length) break;
    frames.push(parseFrame(file.subarray(start, start + length), linkType));
    at = start + length;
  }
  return frames;
}

function parseFrame(bytes: Buffer, linkType: number): Frame {
  if (linkType === LINKTYPE_RAW) {
    const version = (bytes[0] ?? 0) >> 4;
    const etherType = version === 4 ? 0x0800 : version === 6 ? 0x86dd : 0;
    return { bytes, etherType, datagram: parseDatagram(bytes) };
  }
  const etherType = bytes.length >= 14 ? bytes.readUInt16BE(12) : 0;
  const datagram = etherType === 0x0800 ? parseDatagram(bytes.subarray(14)) : undefined;
  return { bytes, etherType, datagram };
}

/** IPv4 (RFC 791) with UDP (RFC 768) inside; undefined for anything else and for fragments. */
function parseDatagram(packet: Buffer): Datagram | undefined {
  if (packet.length < 28 || (packet[0] ?? 0) >> 4 !== 4 || packet[9] !== 17) return undefined;
  if ((packet.readUInt16BE(6) & 0x3fff) !== 0) return undefined;
  const header = ((packet[0] ?? 0) & 15) * 4;
  const udp = packet.subarray(header);
  if (udp.length < 8) return undefined;
  return {
    source: packet.subarray(12, 16).join('.'),
    destination: packet.subarray(16, 20).join('.'),
    sourcePort: udp.readUInt16BE(0),
    destinationPort: udp.readUInt16BE(2),
    payload: udp.subarray(8),
  };
}

/**
 * Requests of the WireGuard configuration protocol as text: cuts a stream into requests and turns
 * each into values. Knows the keys and their ranges; applies nothing and holds no device.
 * Source: "Configuration Protocol" on wireguard.com/xplatform, and device/uapi.go of wireguard-go
 * for what the page leaves open.
 */
import { isIP } from 'node:net';
import { constants } from 'node:os';
import {
  clamp,
  KEY_BYTES,
  type PresharedKey,
  type PrivateKey,
  type PublicKey,
} from '../../keys/keypair.ts';
import { fromHex } from '../bytes.ts';
import { networkText, parseCidr } from '../cidr.ts';
import type { Endpoint } from '../dataplane.ts';

/** What a set request changes; absent means unchanged. */
export interface DeviceChange {
  /** Clamped; null clears it. */
  privateKey?: PrivateKey | null;
  /** 0: the kernel chooses. */
  listenPort?: number;
  fwmark?: number;
  /** Removes all peers before the changes of `peers`. */
  replacePeers: boolean;
  /** In the order of the request; a key may come twice. */
  readonly peers: PeerChange[];
}

export interface PeerChange {
  readonly publicKey: PublicKey;
  remove: boolean;
  /** Nothing happens when there is no such peer. */
  updateOnly: boolean;
  /** All zero: none. */
  presharedKey?: PresharedKey;
  endpoint?: Endpoint;
  persistentKeepalive?: number;
  /** Takes all allowed IPs away before the changes of `allowedIps`. */
  replaceAllowedIps: boolean;
  readonly allowedIps: AllowedIpChange[];
}

export interface AllowedIpChange {
  readonly add: boolean;
  /** `address/length`, host bits cleared, in one spelling. */
  readonly network: string;
}

export type Request =
  | { readonly type: 'get' }
  | { readonly type: 'set'; readonly change: DeviceChange }
  /** Malformed; nothing of it may be applied. */
  | {
      readonly type: 'refused';
      /** Positive. */
      readonly errno: number;
      /** Names line number and key, never a value: values are secrets. */
      readonly why: string;
      /** The stream is out of step: nothing after this can be understood. */
      readonly last: boolean;
    };

/** The longest line with a meaning has 77 characters; longer ones are not stored. */
const MAX_LINE = 1024;
/** About two million allowed IPs. */
const MAX_REQUEST = 64 << 20;

const { EINVAL, EPROTO, E2BIG } = constants.errno;

interface Complaint {
  readonly errno: number;
  readonly why: string;
}

/** Cuts what one connection sends into requests; state is the request under way. */
export class RequestReader {
  #tail = '';
  /** The current line is too long; its characters are thrown away. */
  #overlong = false;
  #operation: 'none' | 'get' | 'set' = 'none';
  #change = emptyChange();
  #complaint: Complaint | null = null;
  /** Lines and characters of the request so far. */
  #lines = 0;
  #size = 0;

  /** Takes the next piece of the stream, yields the requests it completes. */
  *feed(text: string): Generator<Request> {
    let at = 0;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', at)) {
      const line = this.#tail + text.slice(at, end);
      at = end + 1;
      this.#tail = '';
      const request = this.#takeLine(line);
      if (request !== null) yield request;
    }
    this.#tail += text.slice(at);
    if (this.#tail.length > MAX_LINE) {
      this.#overlong = true;
      this.#tail = '';
    }
  }

  #takeLine(line: string): Request | null {
    this.#lines++;
    this.#size += line.length + 1;
    const overlong = this.#overlong || line.length > MAX_LINE;
    this.#overlong = false;
    if (this.#operation === 'none') return this.#begin(line, overlong);
    if (line === '' && !overlong) return this.#finish();
    // What follows a complaint is only read to its end.
    if (this.#complaint !== null) return null;
    if (overlong) this.#complain(EINVAL, 'the line is too long');
    else if (this.#operation === 'get') this.#complain(EINVAL, 'get takes no lines');
    else if (this.#size > MAX_REQUEST) this.#complain(E2BIG, 'the request is too long');
    else this.#readLine(line);
    return null;
  }

  #begin(line: string, overlong: boolean): Request | null {
    if (!overlong && line === 'get=1') this.#operation = 'get';
    else if (!overlong && line === 'set=1') this.#operation = 'set';
    else {
      const why = 'a request begins with get=1 or set=1';
      return { type: 'refused', errno: EINVAL, why, last: true };
    }
    return null;
  }

  #readLine(line: string): void {
    const cut = line.indexOf('=');
    if (cut < 0) {
      this.#complain(EPROTO, 'there is no = in it');
      return;
    }
    const key = line.slice(0, cut);
    const value = line.slice(cut + 1);
    const peer = this.#change.peers.at(-1);
    const understood =
      key === 'public_key'
        ? beginPeer(this.#change, value)
        : peer === undefined
          ? readDeviceLine(this.#change, key, value)
          : readPeerLine(peer, key, value);
    if (!understood) {
      const name = KEYS.has(key) ? key : 'the key';
      this.#complain(EINVAL, `${name} is not understood here`);
    }
  }

  #complain(errno: number, why: string): void {
    this.#complaint = { errno, why: `line ${this.#lines}: ${why}` };
    // May be long, and is of no use any more.
    this.#change = emptyChange();
  }

  #finish(): Request {
    const [operation, change, complaint] = [this.#operation, this.#change, this.#complaint];
    this.#operation = 'none';
    this.#change = emptyChange();
    this.#complaint = null;
    this.#lines = 0;
    this.#size = 0;
    if (complaint !== null) return { type: 'refused', ...complaint, last: false };
    return operation === 'get' ? { type: 'get' } : { type: 'set', change };
  }
}

const KEYS: ReadonlySet<string> = new Set([
  ...['private_key', 'listen_port', 'fwmark', 'replace_peers', 'public_key', 'remove'],
  ...['update_only', 'preshared_key', 'endpoint', 'persistent_keepalive_interval'],
  ...['replace_allowed_ips', 'allowed_ip', 'protocol_version'],
]);

function emptyChange(): DeviceChange {
  return { replacePeers: false, peers: [] };
}

function beginPeer(change: DeviceChange, value: string): boolean {
  const publicKey = parseKey(value) as PublicKey | null;
  if (publicKey === null) return false;
  const flags = { remove: false, updateOnly: false, replaceAllowedIps: false };
  change.peers.push({ publicKey, ...flags, allowedIps: [] });
  return true;
}

/** One line before the first peer. False: unknown key or bad value. */
function readDeviceLine(change: DeviceChange, key: string, value: string): boolean {
  switch (key) {
    case 'private_key': {
      const bytes = parseKey(value);
      if (bytes === null) return false;
      change.privateKey = isZero(bytes) ? null : clamp(bytes);
      return true;
    }
    case 'listen_port': {
      const port = parseNumber(value, 0xffff);
      if (port === null) return false;
      change.listenPort = port;
      return true;
    }
    case 'fwmark': {
      const mark = parseNumber(value, 0xffff_ffff);
      if (mark === null) return false;
      change.fwmark = mark;
      return true;
    }
    case 'replace_peers':
      change.replacePeers = true;
      return value === 'true';
    default:
      return false;
  }
}

/** One line of a peer. False: unknown key or bad value. */
function readPeerLine(peer: PeerChange, key: string, value: string): boolean {
  switch (key) {
    case 'remove':
      peer.remove = true;
      return value === 'true';
    case 'update_only':
      peer.updateOnly = true;
      return value === 'true';
    case 'preshared_key': {
      const bytes = parseKey(value);
      if (bytes === null) return false;
      peer.presharedKey = bytes as PresharedKey;
      return true;
    }
    case 'endpoint': {
      const endpoint = parseEndpoint(value);
      if (endpoint === null) return false;
      peer.endpoint = endpoint;
      return true;
    }
    case 'persistent_keepalive_interval': {
      const seconds = parseNumber(value, 0xffff);
      if (seconds === null) return false;
      peer.persistentKeepalive = seconds;
      return true;
    }
    case 'replace_allowed_ips':
      // Lines before this one would have been undone by it.
      peer.allowedIps.length = 0;
      peer.replaceAllowedIps = true;
      return value === 'true';
    case 'allowed_ip': {
      const add = !value.startsWith('-');
      const network = parseNetwork(add ? value : value.slice(1));
      if (network === null) return false;
      peer.allowedIps.push({ add, network });
      return true;
    }
    case 'protocol_version':
      return value === '1';
    default:
      return false;
  }
}

/** 64 hex digits. */
function parseKey(value: string): Uint8Array | null {
  return value.length === 2 * KEY_BYTES ? fromHex(value) : null;
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

/** A decimal number, 0 .. `highest`. */
function parseNumber(value: string, highest: number): number | null {
  const number = /^\d{1,10}$/.test(value) ? Number(value) : Number.NaN;
  return number <= highest ? number : null;
}

/** `address:port`, IPv6 in brackets, a link-local one with its scope. */
function parseEndpoint(value: string): Endpoint | null {
  const found = /^(?:\[([0-9A-Fa-f:.]+(?:%[^\s[\]%]{1,15})?)\]|([0-9.]+)):(\d{1,5})$/.exec(value);
  if (found === null) return null;
  const [, v6, v4, port] = found;
  const address = v6 ?? v4!;
  const literal = address.split('%')[0]!;
  if (isIP(literal) !== (v6 === undefined ? 4 : 6)) return null;
  // The data plane refuses port 0 too, but only when earlier peers of the request are set.
  return Number(port) >= 1 && Number(port) <= 0xffff ? { address, port: Number(port) } : null;
}

/** `address/length` with its host bits cleared. */
function parseNetwork(value: string): string | null {
  if (!/\/(?:0|[1-9]\d{0,2})$/.test(value)) return null;
  const cidr = parseCidr(value);
  return cidr === null ? null : networkText(cidr);
}

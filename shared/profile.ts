/**
 * Profiles: the text of wg-quick files, parsed and formatted. Accepts what wg-quick accepts; our
 * own settings travel as comments, `# culvert: key = value`, so that any WireGuard app opens our
 * files. Runs nothing: hooks in a file are named in `warnings` and left alone.
 */
import { isIP } from 'node:net';
import { domainToASCII } from 'node:url';
import {
  keyFromBase64,
  keyToBase64,
  type PresharedKey,
  type PrivateKey,
  type PublicKey,
} from '../keys/keypair.ts';
import { isOnHostOrLink, parseCidr } from './cidr.ts';
import { VpnError } from './errors.ts';
import { nearestName } from './nearest-name.ts';

export interface HostPort {
  /** A name, or an IPv4 or IPv6 literal without brackets. */
  readonly host: string;
  readonly port: number;
}

export interface ProfilePeer {
  readonly publicKey: PublicKey;
  readonly presharedKey?: PresharedKey;
  readonly endpoint?: HostPort;
  /** `address/length`; host bits may be set. */
  readonly allowedIps: readonly string[];
  /** Seconds, 0: off. */
  readonly persistentKeepalive: number;
}

export interface Profile {
  readonly privateKey?: PrivateKey;
  /** `address/length`. */
  readonly addresses: readonly string[];
  /** Literals of name servers. */
  readonly dns: readonly string[];
  /** Search domains, written among the name servers in the file. */
  readonly domains: readonly string[];
  readonly mtu?: number;
  readonly listenPort?: number;
  /** 0: none. */
  readonly fwmark?: number;
  /** Where routes go: 'auto' (absent), 'off', or the number of a table. */
  readonly table?: 'off' | number;
  readonly peers: readonly ProfilePeer[];
  /** Our own settings. */
  readonly extras: Readonly<Record<string, string>>;
  /** What the file asks for and we do not do, with line numbers. */
  readonly warnings: readonly string[];
}

/** What formatProfile needs: lists and warnings may be left out. */
export type NewProfile = Pick<Profile, 'privateKey' | 'mtu' | 'listenPort' | 'fwmark' | 'table'> &
  Partial<Pick<Profile, 'addresses' | 'dns' | 'domains' | 'peers' | 'extras'>>;

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
type DraftPeer = Mutable<Partial<ProfilePeer>> & { line: number; allowedIps: string[] };
interface Draft extends Mutable<Omit<Profile, 'peers' | 'addresses' | 'dns' | 'domains'>> {
  addresses: string[];
  dns: string[];
  domains: string[];
  peers: DraftPeer[];
  extras: Record<string, string>;
  warnings: string[];
}

/** A complaint about a value; parseProfile adds file and line. */
class Complaint {
  readonly text: string;
  readonly code: 'PROFILE_INVALID' | 'KEY_MALFORMED';
  /** The part of the value that is meant; absent: all of it. */
  readonly item: string | undefined;
  constructor(
    text: string,
    code: 'PROFILE_INVALID' | 'KEY_MALFORMED' = 'PROFILE_INVALID',
    item?: string,
  ) {
    this.text = text;
    this.code = code;
    this.item = item;
  }
}

const INTERFACE_KEYS: Readonly<Record<string, (draft: Draft, value: string) => void>> = {
  PrivateKey: (d, v) => {
    d.privateKey = key<PrivateKey>(v);
  },
  Address: (d, v) => {
    d.addresses.push(...list(v).map(range));
  },
  DNS: (d, v) => {
    for (const item of list(v)) {
      const address = parseCidr(item);
      if (address !== null && !item.includes('/') && isOnHostOrLink(address)) {
        throw new Complaint('is no name server that a tunnel leads to', 'PROFILE_INVALID', item);
      }
      const name = inAscii(item);
      if (isIP(item)) d.dns.push(item);
      // Digits of another script may come out as an address.
      else if (name !== '' && !isIP(name)) d.domains.push(name);
      else throw new Complaint('is neither an address nor a domain', 'PROFILE_INVALID', item);
    }
  },
  MTU: (d, v) => {
    d.mtu = number(v, 576, 65_535);
  },
  ListenPort: (d, v) => {
    d.listenPort = number(v, 0, 65_535);
  },
  FwMark: (d, v) => {
    d.fwmark = v.toLowerCase() === 'off' ? 0 : number(v, 0, 0xffff_ffff);
  },
  Table: (d, v) => {
    const name = v.toLowerCase();
    if (name === 'off') d.table = 'off';
    else if (name === 'auto') delete d.table;
    else d.table = number(v, 1, 0xffff_ffff);
  },
};

/** Accepted and not done. */
const IGNORED_KEYS: Readonly<Record<string, string>> = {
  PreUp: 'hooks are never run',
  PostUp: 'hooks are never run',
  PreDown: 'hooks are never run',
  PostDown: 'hooks are never run',
  SaveConfig: 'the file is never written',
};

const PEER_KEYS: Readonly<Record<string, (peer: DraftPeer, value: string) => void>> = {
  PublicKey: (p, v) => {
    p.publicKey = key<PublicKey>(v);
  },
  PresharedKey: (p, v) => {
    p.presharedKey = key<PresharedKey>(v);
  },
  Endpoint: (p, v) => {
    const endpoint = parseHostPort(v);
    if (endpoint === null) throw new Complaint(hostPortFault(v));
    p.endpoint = endpoint;
  },
  AllowedIPs: (p, v) => {
    p.allowedIps.push(...list(v).map(range));
  },
  PersistentKeepalive: (p, v) => {
    p.persistentKeepalive = v.toLowerCase() === 'off' ? 0 : number(v, 0, 65_535);
  },
};

/**
 * Reads a wg-quick file. `name` is how errors call it.
 * Errors: PROFILE_INVALID and KEY_MALFORMED, `name:line: what is wrong`; keys are never shown.
 */
export function parseProfile(text: string, name: string): Profile {
  const draft: Draft = {
    addresses: [],
    dns: [],
    domains: [],
    peers: [],
    extras: {},
    warnings: [],
  };
  let section: 'interface' | 'peer' | null = null;
  for (const [index, raw] of text
    .replace(/^\uFEFF/, '')
    .split(/\r?\n/)
    .entries()) {
    const line = index + 1;
    const extra = /^\s*#\s*culvert:\s*([\w-]+)\s*=(.*)$/i.exec(raw);
    if (extra) draft.extras[extra[1]!] = extra[2]!.trim();
    const content = raw.split('#', 1)[0]!.trim();
    if (content === '') continue;
    const header = content.replace(/\s+/g, '').toLowerCase();
    if (header === '[interface]') {
      section = 'interface';
    } else if (header === '[peer]') {
      section = 'peer';
      draft.peers.push({ line, allowedIps: [] });
    } else {
      parseLine(draft, section, content, `${name}:${line}`);
    }
  }
  return finish(draft, name);
}

/** The text of a profile, readable by wg-quick and by parseProfile. Contains the private key. */
export function formatProfile(profile: NewProfile): string {
  const lines = ['[Interface]'];
  const put = (key: string, value: string | number | undefined) => {
    if (value !== undefined && value !== '') lines.push(`${key} = ${value}`);
  };
  for (const [key, value] of Object.entries(profile.extras ?? {})) {
    lines.push(`# culvert: ${key} = ${value}`);
  }
  put('PrivateKey', profile.privateKey && keyToBase64(profile.privateKey));
  put('Address', profile.addresses?.join(', '));
  put('DNS', [...(profile.dns ?? []), ...(profile.domains ?? [])].join(', '));
  put('MTU', profile.mtu);
  put('ListenPort', profile.listenPort);
  put('FwMark', profile.fwmark || undefined);
  put('Table', profile.table);
  for (const peer of profile.peers ?? []) {
    lines.push('', '[Peer]');
    put('PublicKey', keyToBase64(peer.publicKey));
    put('PresharedKey', peer.presharedKey && keyToBase64(peer.presharedKey));
    put('AllowedIPs', peer.allowedIps.join(', '));
    put('Endpoint', peer.endpoint && formatHostPort(peer.endpoint));
    put('PersistentKeepalive', peer.persistentKeepalive || undefined);
  }
  return `${lines.join('\n')}\n`;
}

/**
 * Reads `HOST:PORT`, `1.2.3.4:PORT` or `[v6]:PORT`; null for anything else. A name in another
 * script than ASCII becomes what name servers know it by (RFC 5890).
 */
export function parseHostPort(text: string): HostPort | null {
  const parts = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  if (!parts) return null;
  const [, bracketed, plain, digits] = parts;
  const host = bracketed ?? inAscii(plain!);
  const port = Number(digits);
  if (port < 1 || port > 65_535) return null;
  if (bracketed !== undefined) return isIP(bracketed) === 6 ? { host, port } : null;
  // A name of labels (RFC 1123, underscores tolerated); digits and dots only must be an address.
  if (/^[\d.]+$/.test(host)) return isIP(host) === 4 ? { host, port } : null;
  const label = '[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?';
  return host.length <= 253 && new RegExp(`^${label}(?:\\.${label})*\\.?$`).test(host)
    ? { host, port }
    : null;
}

/** Why `text` is no HOST:PORT. */
export function hostPortFault(text: string): string {
  const [, host, port] = /^(.+):(\d+)$/s.exec(text) ?? [];
  if (host === undefined) return 'is not HOST:PORT';
  if (Number(port) < 1 || Number(port) > 65_535) return 'has no port from 1 to 65535';
  if (/^\[|:/.test(host)) return 'has no IPv6 address in brackets, as [2001:db8::1]:6000';
  if (/^[\d.]+$/.test(host)) return 'has no valid IPv4 address';
  return 'has no valid host name: letters, digits and hyphens between dots, at most 63 in a row';
}

/** A host name as it is asked for; the empty one when there is none such. */
function inAscii(name: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: everything that is not ASCII is meant.
  if (/^[\x00-\x7f]*$/.test(name)) return name;
  // domainToASCII() would take `ü.example#x` for a part of a URL and give the host in it.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: ASCII but what labels are made of.
  return /(?![\w.-])[\x00-\x7f]/.test(name) ? '' : domainToASCII(name);
}

export function formatHostPort({ host, port }: HostPort): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

function parseLine(
  draft: Draft,
  section: 'interface' | 'peer' | null,
  content: string,
  where: string,
): void {
  const cut = content.indexOf('=');
  const given = content.slice(0, cut).replace(/\s+/g, '');
  const value = content.slice(cut + 1).trim();
  if (cut < 0 || !/^[a-z]{1,24}$/i.test(given)) {
    // Anything but a plain word may be a secret whose name or = is missing.
    const shown = /^[a-z]{1,24}$/i.test(content) ? `"${content}"` : 'this line';
    throw invalid(where, `${shown} is neither a section nor KEY = VALUE`);
  }
  if (section === null) throw invalid(where, `${given} stands before the first section`);
  const known = section === 'interface' ? { ...INTERFACE_KEYS, ...IGNORED_KEYS } : PEER_KEYS;
  const key = Object.keys(known).find((k) => k.toLowerCase() === given.toLowerCase());
  if (key === undefined) {
    const near = nearestName(given, Object.keys(known));
    const title = section === 'interface' ? '[Interface]' : '[Peer]';
    throw invalid(
      where,
      `unknown key ${given} in ${title}${near ? `; did you mean ${near}?` : ''}`,
    );
  }
  if (key in IGNORED_KEYS) {
    draft.warnings.push(`${where}: ${key} is ignored: ${IGNORED_KEYS[key]}`);
    return;
  }
  // wg: an empty list of ranges is fine, any other value must be there.
  if (value === '' && key !== 'AllowedIPs') throw invalid(where, `${key} has no value`);
  try {
    if (section === 'interface') INTERFACE_KEYS[key]!(draft, value);
    else PEER_KEYS[key]!(draft.peers.at(-1)!, value);
  } catch (complaint) {
    if (!(complaint instanceof Complaint)) throw complaint;
    const shown = complaint.code === 'KEY_MALFORMED' ? '' : `"${complaint.item ?? value}" `;
    throw new VpnError(complaint.code, `${where}: ${key} ${shown}${complaint.text}`);
  }
}

function finish(draft: Draft, name: string): Profile {
  const peers = new Map<string, ProfilePeer>();
  for (const { line, publicKey, presharedKey, endpoint, ...rest } of draft.peers) {
    if (!publicKey) throw invalid(`${name}:${line}`, 'this [Peer] has no PublicKey');
    // As for `wg setconf`, a later section for the same peer takes the place of the first.
    peers.set(keyToBase64(publicKey), {
      publicKey,
      ...(presharedKey ? { presharedKey } : {}),
      ...(endpoint ? { endpoint } : {}),
      allowedIps: rest.allowedIps,
      persistentKeepalive: rest.persistentKeepalive ?? 0,
    });
  }
  return { ...draft, peers: [...peers.values()] };
}

function invalid(where: string, what: string): VpnError {
  return new VpnError('PROFILE_INVALID', `${where}: ${what}`);
}

function list(value: string): string[] {
  return value
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');
}

function key<K extends PrivateKey | PublicKey | PresharedKey>(value: string): K {
  const found = keyFromBase64<K>(value.replace(/\s+/g, ''));
  if (found === null) {
    throw new Complaint('is not a key of 44 base64 characters', 'KEY_MALFORMED');
  }
  return found;
}

function range(item: string): string {
  const cidr = parseCidr(item);
  if (cidr === null) throw new Complaint('is no address range', 'PROFILE_INVALID', item);
  return item.includes('/') ? item : `${item}/${cidr.prefixLength}`;
}

function number(value: string, lowest: number, highest: number): number {
  const parsed = /^(\d+|0x[0-9a-f]+)$/i.test(value) ? Number(value) : Number.NaN;
  if (parsed >= lowest && parsed <= highest) return parsed;
  throw new Complaint(`is not a number from ${lowest} to ${highest}`);
}

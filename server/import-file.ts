/**
 * What other servers wrote about their clients, read into one form: a WireGuard server's wg0.conf,
 * OpenVPN's address list (ifconfig-pool-persist) and its client-config-dir. Reads files, changes
 * nothing; whether it fits this server is import.ts.
 */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import {
  keyToBase64,
  type PresharedKey,
  type PrivateKey,
  type PublicKey,
} from '../keys/keypair.ts';
import { cidrText, networkText, parseCidr } from '../shared/cidr.ts';
import { VpnError } from '../shared/errors.ts';
import { parseProfile } from '../shared/profile.ts';

const MAX_FILE_BYTES = 16 << 20;

/** A client somewhere else. Without a key it has to be invited; the rest waits for its name. */
export interface ImportedPeer {
  readonly name: string;
  readonly publicKey: PublicKey | null;
  readonly presharedKey: PresharedKey | null;
  readonly address: string | null;
  readonly address6: string | null;
  readonly networks: readonly string[];
}

export interface Imported {
  readonly peers: readonly ImportedPeer[];
  /** The server's own key, when the file has it. */
  readonly privateKey: PrivateKey | null;
  /** What was left out, and what to do besides, one sentence each. */
  readonly notes: readonly string[];
}

/** Throws VpnError IMPORT_UNREADABLE, PROFILE_INVALID, KEY_MALFORMED. */
export function readImport(path: string): Imported {
  try {
    if (statSync(path).isDirectory()) return readClientConfigs(path);
    const text = readText(path);
    return /^\s*\[interface\]/im.test(text)
      ? readWireguard(text, path)
      : readAddressList(text, path);
  } catch (cause) {
    if (cause instanceof VpnError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    throw new VpnError('IMPORT_UNREADABLE', `cannot read ${path}: ${code}`, { cause });
  }
}

function readText(path: string): string {
  const { size } = statSync(path);
  if (size > MAX_FILE_BYTES) throw new VpnError('IMPORT_UNREADABLE', `${path} is too large`);
  return readFileSync(path, 'utf8');
}

function readWireguard(text: string, path: string): Imported {
  const { peers, privateKey, addresses, listenPort, warnings } = parseProfile(text, basename(path));
  const names = namesByKey(text);
  const ours = new OurNames();
  const imported = peers.map((peer): ImportedPeer => {
    const key = keyToBase64(peer.publicKey);
    const ranges = peer.allowedIps.map((range) => parseCidr(range)!);
    const own4 = ranges.find((range) => range.family === 4 && range.prefixLength === 32);
    const own6 = ranges.find((range) => range.family === 6 && range.prefixLength === 128);
    const written = names.get(key);
    const name = written === undefined ? nameOf(`peer-${key.slice(0, 8)}`) : withoutWord(written);
    return {
      name: ours.nameFor(name),
      publicKey: peer.publicKey,
      presharedKey: peer.presharedKey ?? null,
      address: own4 === undefined ? null : cidrText(own4).split('/')[0]!,
      address6: own6 === undefined ? null : cidrText(own6).split('/')[0]!,
      networks: ranges.filter((range) => range !== own4 && range !== own6).map(networkText),
    };
  });
  const notes = [...warnings, ...ours.notes];
  const networks = addresses.map((address) => networkText(parseCidr(address)!)).join(' and ');
  if (networks !== '') notes.push(`the old server was ${addresses.join(', ')} in ${networks}`);
  if (listenPort !== undefined) notes.push(`the old server listened on UDP ${listenPort}`);
  return { peers: imported, privateKey: privateKey ?? null, notes };
}

/**
 * Names as the common scripts write them, in the comment above a [Peer] or in it: `### Client x`,
 * `# BEGIN_PEER x`, `### begin x ###`, `# Client: x (id)`, `# Name = x`, `# x`.
 */
function namesByKey(text: string): Map<string, string> {
  const names = new Map<string, string>();
  let above: string | null = null;
  let name: string | null = null;
  for (const line of text.split(/\r?\n/)) {
    const comment = /^\s*#+\s*(.*?)[\s#]*$/.exec(line)?.[1];
    const key = /^\s*PublicKey\s*=\s*(\S+)/i.exec(line)?.[1];
    if (/^\s*\[/.test(line)) {
      name = above;
      above = null;
    } else if (comment !== undefined && comment !== '' && !/^END_PEER\b|^end\b/i.test(comment)) {
      above = comment;
      name ??= comment;
    } else if (key !== undefined && name !== null) {
      names.set(key, name);
    }
    if (!/^\s*(#|$|\[)/.test(line)) above = null;
  }
  return names;
}

/** The name in a comment, without the word before it and the mark behind it. */
function withoutWord(comment: string): string {
  return comment
    .replace(/^(BEGIN_PEER|begin|client|friendly_name|name)(\s*[:=]\s*|\s+)(?=\S)/i, '')
    .replace(/\s*\([^)]*\)$/, '');
}

function nameOf(text: string): string {
  const bare = text
    .normalize('NFKD')
    .replace(/\p{M}+/gu, '')
    .replace(/[^A-Za-z0-9._-]+/g, '-')
    .replace(/^[^A-Za-z0-9]+|-+$/g, '')
    .slice(0, 60);
  return bare === '' ? 'peer' : bare;
}

/** Names that fit here, each once, and a note for each that is not as it was. */
class OurNames {
  readonly notes: string[] = [];
  readonly #used = new Set<string>();

  nameFor(text: string): string {
    const name = nameOf(text);
    let found = name;
    for (let n = 2; this.#used.has(found); n++) found = `${name}-${n}`;
    this.#used.add(found);
    if (found !== text) this.notes.push(`${JSON.stringify(text)} is called ${found} here`);
    return found;
  }
}

/** Lines `name,address[,address6]`. */
function readAddressList(text: string, path: string): Imported {
  const peers: ImportedPeer[] = [];
  const ours = new OurNames();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (/^\s*(#|;|$)/.test(line)) continue;
    const [name, address = '', address6 = ''] = line.split(',').map((part) => part.trim());
    const sixth = parseCidr(address6);
    if (!name || parseCidr(address)?.family !== 4 || (address6 !== '' && sixth?.family !== 6)) {
      const where = `${basename(path)}:${index + 1}`;
      throw new VpnError('IMPORT_UNREADABLE', `${where} is not name,address as OpenVPN writes it`);
    }
    const own6 = sixth === null ? null : cidrText(sixth).split('/')[0]!;
    peers.push({ ...reservation(ours.nameFor(name), address, []), address6: own6 });
  }
  return { peers, privateKey: null, notes: ours.notes };
}

/** One file per client, called as it: `ifconfig-push ADDRESS ...`, `iroute NETWORK [MASK]`. */
function readClientConfigs(directory: string): Imported {
  const peers: ImportedPeer[] = [];
  const notes: string[] = [];
  const ours = new OurNames();
  for (const file of readdirSync(directory).sort()) {
    const path = join(directory, file);
    if (file.startsWith('.') || !statSync(path).isFile()) continue;
    if (file === 'DEFAULT') {
      notes.push('DEFAULT is left out: put what it pushes under push in the settings');
      continue;
    }
    let address: string | null = null;
    const networks: string[] = [];
    for (const [index, line] of readText(path).split(/\r?\n/).entries()) {
      const [word, first, second] = line
        .replace(/[#;].*/, '')
        .trim()
        .split(/\s+/);
      const where = `${file}:${index + 1}`;
      if (word === '' || word === undefined) continue;
      if (word === 'ifconfig-push' && parseCidr(first ?? '')?.family === 4) {
        address = first!;
      } else if (word === 'iroute') {
        const network = networkOf(first ?? '', second);
        if (network === null) throw new VpnError('IMPORT_UNREADABLE', `${where} has no network`);
        networks.push(network);
      } else {
        notes.push(`${where} is left out: ${word}`);
      }
    }
    peers.push(reservation(ours.nameFor(file), address, networks));
  }
  return { peers, privateKey: null, notes: [...ours.notes, ...notes] };
}

function reservation(
  name: string,
  address: string | null,
  networks: readonly string[],
): ImportedPeer {
  return { name, publicKey: null, presharedKey: null, address, address6: null, networks };
}

/** `10.20.0.0 255.255.0.0` as CIDR text; without a mask one address; null: neither. */
function networkOf(address: string, mask: string | undefined): string | null {
  const bits = (mask ?? '255.255.255.255')
    .split('.')
    .map((part) => Number(part).toString(2).padStart(8, '0'))
    .join('');
  if (!/^1*0*$/.test(bits) || bits.length !== 32) return null;
  const range = parseCidr(`${address}/${bits.replaceAll('0', '').length}`);
  return range?.family === 4 ? networkText(range) : null;
}

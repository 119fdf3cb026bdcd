/**
 * What a client remembers of its servers, in the state directory:
 *
 *   clients/HOST_PORT/profile.json    the server, after the enrolment was answered
 *   clients/HOST_PORT/enrolment.json  the same before that, while an invite is being used
 *   clients/HOST_PORT/client.key      our own key (client-XXXXXXXX.key for a later enrolment)
 *   clients/HOST_PORT/timestamp       highest handshake timestamp used, TAI64N in hex
 *
 * Every file is written atomically. The own key is on disk before the server hears of it, so an
 * enrolment that was cut off anywhere can be taken up again.
 */
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { readKeyFile, writeKeyFile, writeOwnerOnly } from '../keys/key-file.ts';
import {
  generatePrivateKey,
  keyFromBase64,
  keyToBase64,
  type PrivateKey,
  type PublicKey,
  publicKeyOf,
} from '../keys/keypair.ts';
import { fromHex, toHex } from '../shared/bytes.ts';
import type { Invite } from '../shared/control/invite.ts';
import { VpnError } from '../shared/errors.ts';
import type { Logger } from '../shared/log.ts';
import { formatHostPort, type HostPort, parseHostPort } from '../shared/profile.ts';
import { makeDirectory } from '../shared/system/make-directory.ts';

/** Folder of all servers in the state directory. */
export const CLIENTS = 'clients';
const TIMESTAMP_BYTES = 12;
const FIRST_KEY_FILE = 'client.key';
const KEY_FILE = /^client(-[0-9a-f]{8})?\.key$/;

/** A server this client has enrolled at, or is enrolling at. */
export interface Membership {
  /** Folder of this server, made by the store. */
  readonly directory: string;
  /** False until the server has answered the enrolment. */
  readonly enrolled: boolean;
  readonly endpoints: readonly HostPort[];
  readonly serverPublicKey: PublicKey;
  /** Name the server gave us; null when we have not heard it. */
  readonly name: string | null;
  /** Public half of the invite's throw-away key: recognises the invite. */
  readonly inviteKey: PublicKey;
  readonly keyFile: string;
  /** Of the key that takes its place once it has shaken hands; null: none. */
  readonly nextKeyFile: string | null;
}

const hostPort = z.string().transform((text, context) => {
  const parsed = parseHostPort(text);
  if (parsed === null) context.addIssue('not HOST:PORT');
  return parsed ?? z.NEVER;
});
const publicKey = z.string().transform((text, context) => {
  const key = keyFromBase64<PublicKey>(text);
  if (key === null) context.addIssue('not a key');
  return key ?? z.NEVER;
});
const schema = z.object({
  version: z.literal(1),
  endpoints: z.array(hostPort).min(1),
  serverPublicKey: publicKey,
  name: z.string().nullable(),
  inviteKey: publicKey,
  keyFile: z.string().regex(KEY_FILE),
  nextKeyFile: z.string().regex(KEY_FILE).nullable().default(null),
});

export class ProfileStore {
  /** The state directory; made when the first thing is written. */
  readonly state: string;
  readonly #directory: string;

  constructor(state: string) {
    this.state = state;
    this.#directory = join(state, CLIENTS);
  }

  /** All servers this client has enrolled at, in order of their folders. Errors: STATE_UNUSABLE. */
  enrolled(): Membership[] {
    return this.#folders()
      .map((directory) => read(directory, 'profile.json'))
      .filter((membership) => membership !== null);
  }

  /** The server remembered for an endpoint, enrolled or about to be; null when there is none. */
  find(endpoint: HostPort): Membership | null {
    const directory = this.folderOf(endpoint);
    const direct = read(directory, 'profile.json') ?? read(directory, 'enrolment.json');
    if (direct) return direct;
    const text = formatHostPort(endpoint).toLowerCase();
    const names = (m: Membership) => m.endpoints.map((e) => formatHostPort(e).toLowerCase());
    return this.enrolled().find((m) => names(m).includes(text)) ?? null;
  }

  /** The server that `invite` led to before, enrolled or about to be; null on its first use. */
  findByInvite(invite: Invite): Membership | null {
    const inviteKey = keyToBase64(publicKeyOf(invite.privateKey));
    for (const directory of this.#folders()) {
      for (const file of ['profile.json', 'enrolment.json'] as const) {
        const found = read(directory, file);
        if (found && keyToBase64(found.inviteKey) === inviteKey) return found;
      }
    }
    return null;
  }

  /**
   * Begins an enrolment: makes our own key and writes it down with the server it is for. An
   * earlier membership at the same endpoint stays in force until complete().
   */
  begin(endpoints: readonly HostPort[], invite: Invite): Membership {
    const directory = this.folderOf(endpoints[0]!);
    const key = generatePrivateKey();
    const suffix = toHex(publicKeyOf(key)).slice(0, 8);
    const first = !existsSync(join(directory, FIRST_KEY_FILE));
    const membership: Membership = {
      directory,
      enrolled: false,
      endpoints,
      serverPublicKey: invite.serverPublicKey,
      name: null,
      inviteKey: publicKeyOf(invite.privateKey),
      keyFile: first ? FIRST_KEY_FILE : `client-${suffix}.key`,
      nextKeyFile: null,
    };
    makeFolder(directory);
    writeKeyFile(join(directory, membership.keyFile), key);
    write(directory, 'enrolment.json', membership);
    return membership;
  }

  /**
   * The server has answered: from now on this is the membership at its endpoint. `name` null: the
   * answer that had it was lost.
   */
  complete(membership: Membership, name: string | null): Membership {
    const { directory, keyFile } = membership;
    const completed = { ...membership, enrolled: true, name };
    write(directory, 'profile.json', completed);
    rmSync(join(directory, 'enrolment.json'), { force: true });
    removeOtherKeys(directory, keyFile);
    return completed;
  }

  /** Makes the key that is to follow and writes it down. */
  beginRotation(membership: Membership): Membership {
    const key = generatePrivateKey();
    const nextKeyFile = `client-${toHex(publicKeyOf(key)).slice(0, 8)}.key`;
    writeKeyFile(join(membership.directory, nextKeyFile), key);
    const rotating = { ...membership, nextKeyFile };
    write(membership.directory, 'profile.json', rotating);
    return rotating;
  }

  /** The key that was to follow has shaken hands. */
  completeRotation(membership: Membership): Membership {
    const { directory, nextKeyFile } = membership;
    if (nextKeyFile === null) return membership;
    const rotated = { ...membership, keyFile: nextKeyFile, nextKeyFile: null };
    write(directory, 'profile.json', rotated);
    removeOtherKeys(directory, nextKeyFile);
    return rotated;
  }

  /** null: no change of key is under way. Errors: those of readKeyFile. */
  nextKey({ directory, nextKeyFile }: Membership): PrivateKey | null {
    return nextKeyFile === null ? null : readKeyFile(join(directory, nextKeyFile));
  }

  /** The server refused the enrolment: its key is of no use. */
  abandon(membership: Membership): void {
    rmSync(join(membership.directory, 'enrolment.json'), { force: true });
    rmSync(join(membership.directory, membership.keyFile), { force: true });
  }

  /** Removes a folder in which nothing is remembered; one with a server or a key stays. */
  removeFolder(directory: string): void {
    const names = existsSync(directory) ? readdirSync(directory) : [];
    if (names.some((name) => name.endsWith('.json') || KEY_FILE.test(name))) return;
    rmSync(directory, { recursive: true, force: true });
    if (existsSync(this.#directory) && readdirSync(this.#directory).length === 0) {
      rmdirSync(this.#directory);
    }
  }

  /** Our own key at a server. Errors: those of readKeyFile. */
  ownKey(membership: Membership): PrivateKey {
    return readKeyFile(join(membership.directory, membership.keyFile));
  }

  /** Folder for the timestamp of a key that came in a file of the operator's. */
  folderOfKey(key: PublicKey): string {
    return join(this.#directory, `key-${toHex(key).slice(0, 16)}`);
  }

  #folders(): string[] {
    if (!existsSync(this.#directory)) return [];
    const names = readdirSync(this.#directory).sort();
    return names.map((name) => join(this.#directory, name));
  }

  /** Folder for what is remembered of the server at an endpoint. */
  folderOf({ host, port }: HostPort): string {
    return join(this.#directory, `${host.toLowerCase()}_${port}`);
  }
}

/** The highest handshake timestamp used, kept in a folder of the store. */
export class TimestampFile {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** 12 bytes TAI64N; null when none was used yet. A damaged file counts as none. */
  read(): Uint8Array | null {
    try {
      const bytes = fromHex(readFileSync(join(this.#directory, 'timestamp'), 'utf8').trim());
      return bytes?.length === TIMESTAMP_BYTES ? bytes : null;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw unusable(this.#directory, error);
    }
  }

  /** As write(), but a full disk must not end the tunnel: it is only logged. */
  keep(stamp: Uint8Array, log: Logger): void {
    try {
      this.write(stamp);
    } catch (error) {
      log.error({ err: error }, 'the handshake timestamp could not be written');
    }
  }

  write(stamp: Uint8Array): void {
    makeFolder(this.#directory);
    writeState(join(this.#directory, 'timestamp'), `${toHex(stamp)}\n`);
  }
}

function read(directory: string, file: 'profile.json' | 'enrolment.json'): Membership | null {
  const path = join(directory, file);
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw unusable(path, error);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw damaged(path, cause);
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw damaged(path, parsed.error);
  const { version: _, ...rest } = parsed.data;
  return { ...rest, directory, enrolled: file === 'profile.json' };
}

function removeOtherKeys(directory: string, keyFile: string): void {
  for (const file of readdirSync(directory)) {
    if (KEY_FILE.test(file) && file !== keyFile) rmSync(join(directory, file));
  }
}

function write(directory: string, file: string, membership: Membership): void {
  const { endpoints, serverPublicKey, name, inviteKey, keyFile, nextKeyFile } = membership;
  const value = {
    version: 1,
    endpoints: endpoints.map(formatHostPort),
    serverPublicKey: keyToBase64(serverPublicKey),
    name,
    inviteKey: keyToBase64(inviteKey),
    keyFile,
    ...(nextKeyFile === null ? {} : { nextKeyFile }),
  };
  writeState(join(directory, file), `${JSON.stringify(value, null, 2)}\n`);
}

function makeFolder(directory: string): void {
  try {
    makeDirectory(directory, 0o700);
  } catch (error) {
    throw unusable(directory, error);
  }
}

function writeState(path: string, text: string): void {
  try {
    writeOwnerOnly(path, text, true);
  } catch (error) {
    throw unusable(path, error instanceof VpnError ? error.cause : error);
  }
}

function unusable(path: string, cause: unknown): VpnError {
  const { code } = cause as NodeJS.ErrnoException;
  return new VpnError('STATE_UNUSABLE', `cannot use ${path}: ${code}`, { cause });
}

function damaged(path: string, cause: unknown): VpnError {
  return new VpnError('STATE_UNUSABLE', `${path} is damaged`, {
    cause,
    hint: `Put it back from a backup; or move the folder ${dirname(path)} away, and enrol anew with an invite.`,
  });
}

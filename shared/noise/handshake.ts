/**
 * WireGuard's handshake: create and consume the initiation and the response. Pure functions on
 * explicit state; nothing is changed before the last tag verified, secrets of a step are wiped
 * after it. Does not judge timestamps, rates or endpoints (shared/session) and no MACs (native).
 * Source: WireGuard paper section 5.4.
 */
import type { PrivateKey, PublicKey } from '../../keys/keypair.ts';
import { wipe } from '../bytes.ts';
import { type DhPrivate, importPrivate } from './crypto.ts';
import { formatInitiation, formatResponse, type HandshakeMessage } from './messages.ts';
import { readFirst, readSecond, startState, writeFirst, writeSecond } from './pattern.ts';
import { type SymmetricState, split, wipeState } from './symmetric.ts';

/** Why a handshake message of a remote peer was refused. */
export type HandshakeRefusal =
  /** Size, type or reserved bytes are wrong. */
  | 'malformed'
  /** A DH result was zero: an ephemeral or static key of low order. */
  | 'lowOrder'
  /** Initiation: its static key does not open, it was made for another responder key. */
  | 'badStatic'
  /** Initiation: its static key belongs to no peer. */
  | 'unknownPeer'
  /** Initiation: its timestamp does not open, the sender does not own the static key. */
  | 'badTimestamp'
  /** Initiation: its timestamp is not after the last one: a replay, or a clock set back. */
  | 'replayedTimestamp'
  /** Initiation: less than 20 ms after the last one of the same peer. */
  | 'tooSoon'
  /** Response: no initiation waits under its receiver index. */
  | 'unexpectedResponse'
  /** Response: its tag is wrong; mostly a different preshared key on the other side. */
  | 'pskMismatch';

/** Who we are. */
export interface Identity {
  readonly publicKey: PublicKey;
  readonly dh: DhPrivate;
  /** State after prologue and own static key, as responder. */
  readonly start: SymmetricState;
}

/** What a handshake needs of a remote peer; computed at first use, kept while both keys stay. */
export interface RemoteStatic {
  readonly publicKey: PublicKey;
  /** 32 bytes; null when the product is zero: this peer can have no handshake at all. */
  readonly staticStatic: Uint8Array | null;
  /** State after prologue and the peer's static key, as initiator. */
  readonly start: SymmetricState;
}

/** An initiation that waits for its response. */
export interface PendingInitiation {
  readonly localIndex: number;
  readonly ephemeral: DhPrivate;
  readonly state: SymmetricState;
}

/** An initiation that was verified; not yet judged by its timestamp. */
export interface ConsumedInitiation<Remote> {
  readonly remote: Remote;
  readonly remoteIndex: number;
  readonly remoteEphemeral: Uint8Array;
  /** TAI64N, 12 bytes. */
  readonly timestamp: Uint8Array;
  readonly state: SymmetricState;
}

/** What a completed handshake yields; the receiver wipes both 32-byte keys. */
export interface SessionKeys {
  readonly localIndex: number;
  readonly remoteIndex: number;
  readonly sendKey: Uint8Array;
  readonly receiveKey: Uint8Array;
}

const PROLOGUE = new TextEncoder().encode('WireGuard v1 zx2c4 Jason@zx2c4.com');
const EMPTY = new Uint8Array(0);

/** Our side of every handshake under this private key. */
export function createIdentity(privateKey: PrivateKey): Identity {
  const own = importPrivate(privateKey);
  const publicKey = own.publicKey as PublicKey;
  return { publicKey, dh: own, start: startState(PROLOGUE, publicKey) };
}

/** Prepares for a remote peer what does not change from handshake to handshake. */
export function createRemoteStatic(identity: Identity, publicKey: PublicKey): RemoteStatic {
  return {
    publicKey,
    staticStatic: identity.dh.dh(publicKey),
    start: startState(PROLOGUE, publicKey),
  };
}

/** Wipes what `createRemoteStatic` computed. */
export function wipeRemoteStatic(remote: RemoteStatic): void {
  if (remote.staticStatic !== null) wipe(remote.staticStatic);
}

/** Wipes an initiation whose response is no longer waited for. */
export function wipePending(pending: PendingInitiation): void {
  pending.ephemeral.wipe();
  wipeState(pending.state);
}

/** Message 1, with its MACs left zero, and what its response needs. Null: low order. */
export function createInitiation(
  identity: Identity,
  remote: RemoteStatic,
  localIndex: number,
  ephemeral: DhPrivate,
  timestamp: Uint8Array,
): { readonly message: Uint8Array; readonly pending: PendingInitiation } | null {
  const keys = { own: identity.dh, remote: remote.publicKey, staticStatic: remote.staticStatic };
  const first = writeFirst(remote.start, keys, ephemeral, timestamp);
  if (first === null) return null;
  return {
    message: formatInitiation(localIndex, first.message),
    pending: { localIndex, ephemeral, state: first.state },
  };
}

/** Verifies message 1. `identify` finds the peer that owns a 32-byte static key. */
export function consumeInitiation<Remote extends RemoteStatic>(
  identity: Identity,
  message: HandshakeMessage & { readonly type: 'initiation' },
  identify: (publicKey: PublicKey) => Remote | undefined,
): ConsumedInitiation<Remote> | HandshakeRefusal {
  const find = (key: Uint8Array) => identify(key as PublicKey);
  const read = readFirst(identity.start, identity.dh, message.noise, find);
  if (read === 'badPayload') return 'badTimestamp';
  if (typeof read === 'string') return read;
  return {
    remote: read.remote,
    remoteIndex: message.sender,
    remoteEphemeral: read.remoteEphemeral,
    timestamp: read.payload,
    state: read.state,
  };
}

/**
 * Message 2, with its MACs left zero, and the session keys. Null: low order. Wipes the state of
 * the consumed initiation: it answers once.
 */
export function createResponse(
  consumed: ConsumedInitiation<RemoteStatic>,
  localIndex: number,
  ephemeral: DhPrivate,
  presharedKey: Uint8Array,
): { readonly message: Uint8Array; readonly keys: SessionKeys } | null {
  const remote = { ephemeral: consumed.remoteEphemeral, static: consumed.remote.publicKey };
  const second = writeSecond(consumed.state, remote, ephemeral, presharedKey, EMPTY);
  wipeState(consumed.state);
  if (second === null) return null;
  const [receiveKey, sendKey] = split(second.state);
  wipeState(second.state);
  const { remoteIndex } = consumed;
  return {
    message: formatResponse(localIndex, remoteIndex, second.message),
    keys: { localIndex, remoteIndex, sendKey, receiveKey },
  };
}

/** Verifies message 2. On a refusal the pending initiation stays good for the true response. */
export function consumeResponse(
  identity: Identity,
  pending: PendingInitiation,
  message: HandshakeMessage & { readonly type: 'response' },
  presharedKey: Uint8Array,
): SessionKeys | HandshakeRefusal {
  const own = { ephemeral: pending.ephemeral, static: identity.dh };
  const second = readSecond(pending.state, own, presharedKey, message.noise);
  if (second === 'badPayload') return 'pskMismatch';
  if (typeof second === 'string') return second;
  const [sendKey, receiveKey] = split(second.state);
  wipeState(second.state);
  wipePending(pending);
  return { localIndex: pending.localIndex, remoteIndex: message.sender, sendKey, receiveKey };
}

/**
 * The two messages of Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, for any prologue and payload:
 *
 *   <- s
 *   ...
 *   -> e, es, s, ss, payload
 *   <- e, ee, se, psk, payload
 *
 * Pure functions: each starts from a state it does not change and returns a new one. WireGuard's
 * prologue, payloads and framing are handshake.ts.
 */
import { concat, wipe } from '../bytes.ts';
import { DH_BYTES, type DhPrivate, TAG_BYTES } from './crypto.ts';
import {
  copyState,
  initialize,
  mixChainingKey,
  mixHash,
  mixKey,
  mixKeyAndHash,
  openAndHash,
  type SymmetricState,
  sealAndHash,
  wipeState,
} from './symmetric.ts';

export const PROTOCOL_NAME = new TextEncoder().encode('Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s');

const SEALED_STATIC_BYTES = DH_BYTES + TAG_BYTES;

/** What an initiator needs: own static key, remote static key, their DH result. */
export interface InitiatorKeys {
  readonly own: DhPrivate;
  readonly remote: Uint8Array;
  /** Static-static DH, 32 bytes; null when a key is of low order. */
  readonly staticStatic: Uint8Array | null;
}

/** A first message that was read; the response is computed from it. */
export interface FirstRead<Remote> {
  readonly state: SymmetricState;
  readonly remote: Remote;
  readonly remoteEphemeral: Uint8Array;
  readonly payload: Uint8Array;
}

export type FirstRefusal = 'lowOrder' | 'badStatic' | 'unknownPeer' | 'badPayload';
export type SecondRefusal = 'lowOrder' | 'badPayload';

/** The state both sides start from: prologue, then the responder's static key (32 bytes). */
export function startState(prologue: Uint8Array, responderStatic: Uint8Array): SymmetricState {
  const state = initialize(PROTOCOL_NAME, prologue);
  mixHash(state, responderStatic);
  return state;
}

/** First message: 32 + 48 + payload + 16 bytes. Null when a DH result is zero. */
export function writeFirst(
  start: SymmetricState,
  keys: InitiatorKeys,
  ephemeral: DhPrivate,
  payload: Uint8Array,
): { readonly message: Uint8Array; readonly state: SymmetricState } | null {
  if (keys.staticStatic === null) return null;
  const shared = ephemeral.dh(keys.remote);
  if (shared === null) return null;
  const state = copyState(start);
  // e
  mixHash(state, ephemeral.publicKey);
  mixChainingKey(state, ephemeral.publicKey);
  // es
  const staticKey = mixKey(state, shared);
  wipe(shared);
  // s
  const sealedStatic = sealAndHash(state, staticKey, keys.own.publicKey);
  // ss
  const payloadKey = mixKey(state, keys.staticStatic);
  const sealedPayload = sealAndHash(state, payloadKey, payload);
  return { message: concat(ephemeral.publicKey, sealedStatic, sealedPayload), state };
}

/**
 * Reads a first message of at least 96 bytes. `identify` names the owner of the static key
 * (32 bytes, decrypted but not yet authenticated) and their static-static DH; undefined: nobody.
 */
export function readFirst<Remote extends { readonly staticStatic: Uint8Array | null }>(
  start: SymmetricState,
  own: DhPrivate,
  message: Uint8Array,
  identify: (remoteStatic: Uint8Array) => Remote | undefined,
): FirstRead<Remote> | FirstRefusal {
  const ephemeral = message.slice(0, DH_BYTES);
  const shared = own.dh(ephemeral);
  if (shared === null) return 'lowOrder';
  const state = copyState(start);
  // e
  mixHash(state, ephemeral);
  mixChainingKey(state, ephemeral);
  // es
  const staticKey = mixKey(state, shared);
  wipe(shared);
  // s
  const payloadAt = DH_BYTES + SEALED_STATIC_BYTES;
  const remoteStatic = openAndHash(state, staticKey, message.subarray(DH_BYTES, payloadAt));
  if (remoteStatic === null) return refuse(state, 'badStatic');
  const remote = identify(remoteStatic);
  if (remote === undefined) return refuse(state, 'unknownPeer');
  if (remote.staticStatic === null) return refuse(state, 'lowOrder');
  // ss
  const payloadKey = mixKey(state, remote.staticStatic);
  const payload = openAndHash(state, payloadKey, message.subarray(payloadAt));
  if (payload === null) return refuse(state, 'badPayload');
  return { state, remote, remoteEphemeral: ephemeral, payload };
}

/** Second message: 32 + payload + 16 bytes. Null when a DH result is zero. */
export function writeSecond(
  first: SymmetricState,
  remote: { readonly ephemeral: Uint8Array; readonly static: Uint8Array },
  ephemeral: DhPrivate,
  presharedKey: Uint8Array,
  payload: Uint8Array,
): { readonly message: Uint8Array; readonly state: SymmetricState } | null {
  const ephemeralShared = ephemeral.dh(remote.ephemeral);
  const staticShared = ephemeral.dh(remote.static);
  if (ephemeralShared === null || staticShared === null) return null;
  const state = copyState(first);
  const key = mixSecond(state, ephemeral.publicKey, ephemeralShared, staticShared, presharedKey);
  const sealedPayload = sealAndHash(state, key, payload);
  return { message: concat(ephemeral.publicKey, sealedPayload), state };
}

/** Reads a second message of at least 48 bytes with the initiator's keys. */
export function readSecond(
  first: SymmetricState,
  own: { readonly ephemeral: DhPrivate; readonly static: DhPrivate },
  presharedKey: Uint8Array,
  message: Uint8Array,
): { readonly state: SymmetricState; readonly payload: Uint8Array } | SecondRefusal {
  const ephemeral = message.subarray(0, DH_BYTES);
  const ephemeralShared = own.ephemeral.dh(ephemeral);
  const staticShared = own.static.dh(ephemeral);
  if (ephemeralShared === null || staticShared === null) return 'lowOrder';
  const state = copyState(first);
  const key = mixSecond(state, ephemeral, ephemeralShared, staticShared, presharedKey);
  const payload = openAndHash(state, key, message.subarray(DH_BYTES));
  if (payload === null) return refuse(state, 'badPayload');
  return { state, payload };
}

/** The tokens of the second message, alike on both sides; wipes both DH results. */
function mixSecond(
  state: SymmetricState,
  ephemeral: Uint8Array,
  ephemeralShared: Uint8Array,
  staticShared: Uint8Array,
  presharedKey: Uint8Array,
): Uint8Array {
  // e
  mixHash(state, ephemeral);
  mixChainingKey(state, ephemeral);
  // ee
  mixChainingKey(state, ephemeralShared);
  // se
  mixChainingKey(state, staticShared);
  wipe(ephemeralShared, staticShared);
  // psk
  return mixKeyAndHash(state, presharedKey);
}

function refuse<R extends string>(state: SymmetricState, reason: R): R {
  wipeState(state);
  return reason;
}

/**
 * The symmetric state of a Noise handshake (Noise revision 34, section 5.2): chaining key and
 * running hash. Functions change the state they are given; callers work on a copy and commit it.
 * Each handshake key seals exactly one message, so the nonce is always zero.
 */
import { wipe } from '../bytes.ts';
import { aeadOpen, aeadSeal, HASH_BYTES, hash, kdf, NONCE_BYTES } from './crypto.ts';

export interface SymmetricState {
  /** 32 bytes, secret. */
  readonly chainingKey: Uint8Array;
  /** 32 bytes, over everything both sides saw. */
  readonly hash: Uint8Array;
}

const NONCE_ZERO = new Uint8Array(NONCE_BYTES);
const EMPTY = new Uint8Array(0);

/** InitializeSymmetric for a protocol name longer than 32 bytes, then MixHash(prologue). */
export function initialize(protocolName: Uint8Array, prologue: Uint8Array): SymmetricState {
  const chainingKey = hash(protocolName);
  return { chainingKey, hash: hash(chainingKey, prologue) };
}

/** An independent copy, to compute on. */
export function copyState(state: SymmetricState): SymmetricState {
  return { chainingKey: Uint8Array.from(state.chainingKey), hash: Uint8Array.from(state.hash) };
}

/** Zeroes a state that is no longer needed. */
export function wipeState(state: SymmetricState): void {
  wipe(state.chainingKey, state.hash);
}

/** MixHash: appends public bytes to the running hash. */
export function mixHash(state: SymmetricState, data: Uint8Array): void {
  state.hash.set(hash(state.hash, data));
}

/** MixKey whose cipher key the next token replaces: only the chaining key moves on. */
export function mixChainingKey(state: SymmetricState, input: Uint8Array): void {
  kdf(state.chainingKey, input, state.chainingKey);
}

/** MixKey: moves the chaining key on and returns a 32-byte cipher key; the caller wipes it. */
export function mixKey(state: SymmetricState, input: Uint8Array): Uint8Array {
  const key = new Uint8Array(HASH_BYTES);
  kdf(state.chainingKey, input, state.chainingKey, key);
  return key;
}

/** MixKeyAndHash for the token psk: returns a 32-byte cipher key; the caller wipes it. */
export function mixKeyAndHash(state: SymmetricState, presharedKey: Uint8Array): Uint8Array {
  const [middle, key] = [new Uint8Array(HASH_BYTES), new Uint8Array(HASH_BYTES)];
  kdf(state.chainingKey, presharedKey, state.chainingKey, middle, key);
  mixHash(state, middle);
  wipe(middle);
  return key;
}

/** EncryptAndHash: seals under `key`, which is wiped; 16 bytes longer than the plaintext. */
export function sealAndHash(
  state: SymmetricState,
  key: Uint8Array,
  plaintext: Uint8Array,
): Uint8Array {
  const sealed = aeadSeal(key, NONCE_ZERO, state.hash, plaintext);
  wipe(key);
  mixHash(state, sealed);
  return sealed;
}

/** DecryptAndHash: opens under `key`, which is wiped; null when the tag is wrong. */
export function openAndHash(
  state: SymmetricState,
  key: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | null {
  const plaintext = aeadOpen(key, NONCE_ZERO, state.hash, sealed);
  wipe(key);
  if (plaintext !== null) mixHash(state, sealed);
  return plaintext;
}

/** Split: the two transport keys, initiator to responder first. */
export function split(state: SymmetricState): [Uint8Array, Uint8Array] {
  const [first, second] = [new Uint8Array(HASH_BYTES), new Uint8Array(HASH_BYTES)];
  kdf(state.chainingKey, EMPTY, first, second);
  return [first, second];
}

/**
 * Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s for the independent test peer: the symmetric state of the
 * Noise specification (section 5.2) and the two messages of the pattern, with any prologue and any
 * payload, so that public Noise vectors run through the same code as WireGuard handshakes.
 */
import {
  agree,
  agreeUnchecked,
  ascii,
  hash,
  type KeyPair,
  kdf,
  open,
  seal,
  WireViolation,
} from './primitives.ts';

export const WIREGUARD_PROLOGUE = ascii('WireGuard v1 zx2c4 Jason@zx2c4.com');
const PROTOCOL_NAME = ascii('Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s');
const EMPTY = new Uint8Array(0);

/** Chaining key, running hash and the cipher key with its nonce (Noise section 5.1, 5.2). */
export class SymmetricState {
  chainingKey: Uint8Array;
  runningHash: Uint8Array;
  private key: Uint8Array = EMPTY;
  private nonce = 0n;

  constructor(prologue: Uint8Array) {
    this.chainingKey = hash(PROTOCOL_NAME);
    this.runningHash = this.chainingKey;
    this.mixHash(prologue);
  }

  /** An independent copy: a failed attempt must leave the original usable. */
  copy(): SymmetricState {
    const twin = new SymmetricState(EMPTY);
    twin.chainingKey = this.chainingKey;
    twin.runningHash = this.runningHash;
    twin.key = this.key;
    twin.nonce = this.nonce;
    return twin;
  }

  mixHash(data: Uint8Array): void {
    this.runningHash = hash(this.runningHash, data);
  }

  mixKey(input: Uint8Array): void {
    const [chainingKey, key] = kdf(2, this.chainingKey, input);
    this.chainingKey = chainingKey!;
    this.key = key!;
    this.nonce = 0n;
  }

  mixKeyAndHash(input: Uint8Array): void {
    const [chainingKey, middle, key] = kdf(3, this.chainingKey, input);
    this.chainingKey = chainingKey!;
    this.mixHash(middle!);
    this.key = key!;
    this.nonce = 0n;
  }

  sealAndHash(plain: Uint8Array): Uint8Array {
    const sealed = seal(this.key, this.nonce++, this.runningHash, plain);
    this.mixHash(sealed);
    return sealed;
  }

  /** Throws WireViolation when the tag is wrong. */
  openAndHash(sealed: Uint8Array, what: string): Uint8Array {
    const plain = open(this.key, this.nonce++, this.runningHash, sealed);
    if (plain === null) throw new WireViolation(`${what} does not authenticate`);
    this.mixHash(sealed);
    return plain;
  }

  /** Transport keys: initiator to responder first. */
  split(): [Uint8Array, Uint8Array] {
    const [first, second] = kdf(2, this.chainingKey, EMPTY);
    return [first!, second!];
  }
}

export interface FirstMessage {
  readonly ephemeral: Uint8Array;
  readonly sealedStatic: Uint8Array;
  readonly sealedPayload: Uint8Array;
}

export interface SecondMessage {
  readonly ephemeral: Uint8Array;
  readonly sealedPayload: Uint8Array;
}

/** `e, es, s, ss`. The key pairs need not match: forgeries pass a low-order public key. */
export function writeFirst(
  prologue: Uint8Array,
  local: KeyPair,
  ephemeral: KeyPair,
  remotePublic: Uint8Array,
  payload: Uint8Array,
  agreed: { readonly es?: Uint8Array; readonly ss?: Uint8Array } = {},
): { message: FirstMessage; state: SymmetricState } {
  const state = new SymmetricState(prologue);
  state.mixHash(remotePublic);
  state.mixHash(ephemeral.publicKey);
  state.mixKey(ephemeral.publicKey);
  state.mixKey(agreed.es ?? agreeUnchecked(ephemeral.privateKey, remotePublic));
  const sealedStatic = state.sealAndHash(local.publicKey);
  state.mixKey(agreed.ss ?? agreeUnchecked(local.privateKey, remotePublic));
  const sealedPayload = state.sealAndHash(payload);
  return { message: { ephemeral: ephemeral.publicKey, sealedStatic, sealedPayload }, state };
}

/** Reads `e, es, s, ss`. Throws WireViolation when anything does not authenticate. */
export function readFirst(
  prologue: Uint8Array,
  local: KeyPair,
  message: FirstMessage,
): { remotePublic: Uint8Array; payload: Uint8Array; state: SymmetricState } {
  const state = new SymmetricState(prologue);
  state.mixHash(local.publicKey);
  state.mixHash(message.ephemeral);
  state.mixKey(message.ephemeral);
  state.mixKey(agree(local.privateKey, message.ephemeral));
  const remotePublic = state.openAndHash(message.sealedStatic, 'static key');
  state.mixKey(agree(local.privateKey, remotePublic));
  const payload = state.openAndHash(message.sealedPayload, 'first payload');
  return { remotePublic, payload, state };
}

/** `e, ee, se, psk` on a copy of the state that the first message left. */
export function writeSecond(
  first: SymmetricState,
  initiator: { readonly ephemeral: Uint8Array; readonly publicKey: Uint8Array },
  ephemeral: KeyPair,
  presharedKey: Uint8Array,
  payload: Uint8Array,
): { message: SecondMessage; state: SymmetricState } {
  const state = first.copy();
  state.mixHash(ephemeral.publicKey);
  state.mixKey(ephemeral.publicKey);
  state.mixKey(agreeUnchecked(ephemeral.privateKey, initiator.ephemeral));
  state.mixKey(agreeUnchecked(ephemeral.privateKey, initiator.publicKey));
  state.mixKeyAndHash(presharedKey);
  const sealedPayload = state.sealAndHash(payload);
  return { message: { ephemeral: ephemeral.publicKey, sealedPayload }, state };
}

/** Reads `e, ee, se, psk` on a copy. Throws WireViolation when it does not authenticate. */
export function readSecond(
  first: SymmetricState,
  local: KeyPair,
  ephemeral: KeyPair,
  presharedKey: Uint8Array,
  message: SecondMessage,
): { payload: Uint8Array; state: SymmetricState } {
  const state = first.copy();
  state.mixHash(message.ephemeral);
  state.mixKey(message.ephemeral);
  state.mixKey(agree(ephemeral.privateKey, message.ephemeral));
  state.mixKey(agree(local.privateKey, message.ephemeral));
  state.mixKeyAndHash(presharedKey);
  const payload = state.openAndHash(message.sealedPayload, 'second payload');
  return { payload, state };
}

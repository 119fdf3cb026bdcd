/**
 * What one handshake costs each side in TypeScript, and its primitives alone. Index, timers
 * and the way through the addon are not part of it; `handshakes` measures the whole server.
 */
import { load } from '../product.mjs';
import { rateOf } from './rate.mjs';

/** @param {number} seconds For each figure. @returns {Promise<import('./rate.mjs').Rate[]>} */
export async function measureHandshake(seconds) {
  /** @type {typeof import('../../../shared/noise/handshake.ts')} */
  const noise = await load('shared/noise/handshake');
  /** @type {typeof import('../../../shared/noise/messages.ts')} */
  const messages = await load('shared/noise/messages');
  /** @type {typeof import('../../../shared/noise/crypto.ts')} */
  const crypto = await load('shared/noise/crypto');
  /** @type {typeof import('../../../shared/noise/tai64n.ts')} */
  const { encodeTai64n } = await load('shared/noise/tai64n');
  /** @type {typeof import('../../../keys/keypair.ts')} */
  const { generatePresharedKey, generatePrivateKey } = await load('keys/keypair');

  const us = noise.createIdentity(generatePrivateKey());
  const them = noise.createIdentity(generatePrivateKey());
  const themRemote = noise.createRemoteStatic(us, them.publicKey);
  const usRemote = noise.createRemoteStatic(them, us.publicKey);
  const psk = generatePresharedKey();
  const stamp = encodeTai64n({ seconds: 1_700_000_000, nanoseconds: 0 });

  const initiate = () => {
    const ephemeral = crypto.generateDh();
    return present(noise.createInitiation(us, themRemote, 1, ephemeral, stamp));
  };
  const respond = (/** @type {Uint8Array} */ message) => {
    const parsed = messages.parseHandshake(message);
    if (parsed?.type !== 'initiation') throw new Error('not an initiation');
    const consumed = noise.consumeInitiation(them, parsed, () => usRemote);
    if (typeof consumed === 'string') throw new Error(consumed);
    return present(noise.createResponse(consumed, 2, crypto.generateDh(), psk));
  };
  const complete = (
    /** @type {{pending: import('../../../shared/noise/handshake.ts').PendingInitiation, response: Uint8Array}} */ input,
  ) => {
    const parsed = messages.parseHandshake(input.response);
    if (parsed?.type !== 'response') throw new Error('not a response');
    const keys = noise.consumeResponse(us, input.pending, parsed, psk);
    if (typeof keys === 'string') throw new Error(keys);
  };
  const own = crypto.generateDh();
  const [chainingKey, key] = [new Uint8Array(32), new Uint8Array(32)];
  const nonce = new Uint8Array(12);
  return [
    rateOf('initiator: initiation', seconds, initiate, (n) => Array.from({ length: n })),
    rateOf('responder: initiation in, response out', seconds, respond, (n) =>
      Array.from({ length: n }, () => initiate().message),
    ),
    rateOf('initiator: response in', seconds, complete, (n) =>
      Array.from({ length: n }, () => {
        const { message, pending } = initiate();
        return { pending, response: respond(message).message };
      }),
    ),
    rateOf(
      'new peer: static-static',
      seconds,
      () => void noise.createRemoteStatic(us, them.publicKey),
      (n) => Array.from({ length: n }),
    ),
    rateOf(
      'X25519: key pair',
      seconds,
      () => void crypto.generateDh(),
      (n) => Array.from({ length: n }),
    ),
    rateOf(
      'X25519: product',
      seconds,
      () => void own.dh(them.publicKey),
      (n) => Array.from({ length: n }),
    ),
    rateOf(
      'BLAKE2s: chaining key and cipher key',
      seconds,
      () => crypto.kdf(chainingKey, them.publicKey, chainingKey, key),
      (n) => Array.from({ length: n }),
    ),
    rateOf(
      'ChaCha20-Poly1305: seal 32 bytes',
      seconds,
      () => void crypto.aeadSeal(key, nonce, chainingKey, them.publicKey),
      (n) => Array.from({ length: n }),
    ),
  ];
}

/**
 * @template T
 * @param {T | null} value
 * @returns {T}
 */
function present(value) {
  if (value === null) throw new Error('low order');
  return value;
}

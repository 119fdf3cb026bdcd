/**
 * The server's identity: identity.key (0600) in the state directory, and the store's note of
 * which public key it belongs to, so that a mixed-up directory is noticed before clients are.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readKeyFile, writeKeyFile } from '../keys/key-file.ts';
import {
  generatePrivateKey,
  keyToBase64,
  type PrivateKey,
  type PublicKey,
  publicKeyOf,
} from '../keys/keypair.ts';
import { VpnError } from '../shared/errors.ts';
import { requireNotLed } from '../shared/system/own-file.ts';
import type { Store } from './store/store.ts';

export const IDENTITY_FILE = 'identity.key';

export interface ServerIdentity {
  readonly privateKey: PrivateKey;
  readonly publicKey: PublicKey;
}

/**
 * Reads the identity, or makes it in a new state directory. Throws VpnError STATE_UNUSABLE,
 * IDENTITY_MISMATCH and the errors of key files.
 */
export function loadIdentity(directory: string, store: Store): ServerIdentity {
  const path = join(directory, IDENTITY_FILE);
  requireNotLed(path);
  const noted = store.identity();
  if (!existsSync(path)) {
    if (noted !== null) {
      throw new VpnError('IDENTITY_MISMATCH', `the identity key ${path} is missing`);
    }
    writeKeyFile(path, generatePrivateKey());
  }
  const privateKey = readKeyFile<PrivateKey>(path);
  const publicKey = publicKeyOf(privateKey);
  if (noted === null) {
    store.setIdentity(publicKey);
  } else if (keyToBase64(noted) !== keyToBase64(publicKey)) {
    throw new VpnError(
      'IDENTITY_MISMATCH',
      `the identity key ${path} is not the one that the store belongs to`,
    );
  }
  return { privateKey, publicKey };
}

/**
 * The change of our own key inside a standing connection: the new key is on disk first, then the
 * server notes it, then it shakes hands, then the old one is deleted. Cut off anywhere, either
 * key still works, and the next connection takes it up again.
 */
import { keyToBase64, type PrivateKey, publicKeyOf } from '../keys/keypair.ts';
import { VpnError } from '../shared/errors.ts';
import type { ConnectionState, Identity } from './connection.ts';
import type { ControlNews } from './control.ts';
import type { OwnKeys } from './own-keys.ts';

/** Time for all of it: the requests are repeated for 15 s, a handshake takes 6 s at most. */
const PATIENCE_MS = 25_000;

export interface RotationReply {
  /** The new key, base64. */
  readonly publicKey: string;
}

export interface RotationOptions {
  readonly keys: OwnKeys;
  /** Asks the server to note the key. */
  readonly request: (publicKey: string) => void;
  /** The server has noted it: shake hands with it. */
  readonly onNoted: () => void;
  /** It is our own key from now on. */
  readonly onDone: () => void;
}

export class Rotation {
  readonly #options: RotationOptions;
  #phase: 'idle' | 'asked' | 'switching' | 'failed' = 'idle';
  #settle: ((result: RotationReply | VpnError) => void) | null = null;

  constructor(options: RotationOptions) {
    this.#options = options;
  }

  /**
   * Rotates now. Errors: NOT_RUNNING without a connection, USAGE (the key is the operator's own,
   * or a rotation is under way), REQUEST_FAILED, STATE_UNUSABLE.
   */
  start(state: ConnectionState): Promise<RotationReply> {
    const { keys } = this.#options;
    if (state !== 'connected') {
      throw new VpnError('NOT_RUNNING', 'there is no connection to change the key in');
    }
    // One that was taken up again and not answered is nobody's: it may be asked for once more.
    if (this.#settle !== null || this.#phase === 'switching') {
      throw new VpnError('USAGE', 'the key is being changed already', { hint: 'Wait for it.' });
    }
    this.#ask(keys.beginRotation());
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => this.#fail('the server does not answer'), PATIENCE_MS);
      this.#settle = (result) => {
        clearTimeout(late);
        this.#settle = null;
        if (result instanceof VpnError) reject(result);
        else resolve(result);
      };
    });
  }

  /** What the server said of the key. */
  hear(news: Extract<ControlNews, { type: 'rotating' | 'rotationRefused' }>): void {
    if (news.type === 'rotationRefused') {
      this.#fail(`the server refuses the new key: ${news.reason}`);
    } else if (this.#phase === 'asked') {
      this.#phase = 'switching';
      this.#options.onNoted();
    }
  }

  /** The server gave a lease to the key of `identity`. Errors: STATE_UNUSABLE. */
  leased(identity: Identity): void {
    const { keys, onDone } = this.#options;
    if (identity === 'next') {
      const key = this.#complete();
      this.#phase = 'idle';
      onDone();
      this.#settle?.({ publicKey: keyToBase64(publicKeyOf(key)) });
    } else if (this.#phase === 'switching') {
      this.#fail('the server took the old key only');
    } else if (this.#settle === null && this.#phase !== 'failed' && keys.isRotating) {
      this.#ask(keys.beginRotation());
    }
  }

  /** Ends what waits: the client stops. */
  close(): void {
    if (this.#settle !== null) this.#fail('the client stops');
  }

  #complete(): PrivateKey {
    try {
      return this.#options.keys.completeRotation();
    } catch (error) {
      // Both keys are on disk, and the server goes by either: the next lease completes it.
      this.#fail(error instanceof Error ? error.message : String(error));
      throw error;
    }
  }

  #ask(key: PrivateKey): void {
    this.#phase = 'asked';
    this.#options.request(keyToBase64(publicKeyOf(key)));
  }

  #fail(why: string): void {
    this.#phase = 'failed';
    this.#settle?.(
      new VpnError('REQUEST_FAILED', `the key was not changed: ${why}`, {
        hint: 'The old key stays in force; the next connection tries again.',
      }),
    );
  }
}

/**
 * One pair of transport keys of the test peer: seals with any counter, receiver and padding, and
 * opens strictly (counters must rise). Owns no socket.
 */

import { paddedLength } from './inner.ts';
import { encodeTransport, type TransportMessage } from './messages.ts';
import { join, open, seal, WireViolation } from './primitives.ts';

const NO_DATA = new Uint8Array(0);

export interface SealOptions {
  /** Used instead of the next counter, which then stays where it is. */
  readonly counter?: bigint;
  /** Receiver index instead of the remote's. */
  readonly receiver?: number;
  /** Length of the padded plaintext instead of what the rules ask for. */
  readonly padTo?: number;
  /** Byte that padding is made of, instead of zero. */
  readonly padding?: number;
}

export interface SessionOptions {
  readonly role: 'initiator' | 'responder';
  readonly localIndex: number;
  readonly remoteIndex: number;
  readonly sendKey: Uint8Array;
  readonly receiveKey: Uint8Array;
  readonly mtu: number;
}

export class Session {
  readonly role: 'initiator' | 'responder';
  readonly localIndex: number;
  readonly remoteIndex: number;
  /** Counter of the next message that is sent without an own one. */
  nextCounter = 0n;
  /** Highest counter received, -1 before the first. */
  highest = -1n;
  private readonly options: SessionOptions;

  constructor(options: SessionOptions) {
    this.options = options;
    this.role = options.role;
    this.localIndex = options.localIndex;
    this.remoteIndex = options.remoteIndex;
  }

  /** A transport message that carries `inner`; empty is a keepalive. */
  seal(inner: Uint8Array, options: SealOptions = {}): Uint8Array {
    const padTo = options.padTo ?? paddedLength(inner.length, this.options.mtu);
    const padding = new Uint8Array(Math.max(0, padTo - inner.length)).fill(options.padding ?? 0);
    const counter = options.counter ?? this.nextCounter++;
    const sealed = seal(this.options.sendKey, counter, NO_DATA, join(inner, padding));
    return encodeTransport(options.receiver ?? this.remoteIndex, counter, sealed);
  }

  /**
   * The padded plaintext. Throws WireViolation when the tag is wrong or the counter does not rise:
   * on a path that keeps the order, an honest sender's counters only rise.
   */
  open(message: TransportMessage): Uint8Array {
    const plain = open(this.options.receiveKey, message.counter, NO_DATA, message.sealed);
    if (plain === null) throw new WireViolation('transport does not authenticate');
    const before = this.highest;
    if (message.counter > before) this.highest = message.counter;
    else throw new WireViolation(`counter ${message.counter} after ${before}`);
    return plain;
  }
}

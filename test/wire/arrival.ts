/**
 * What the test peer knows of a received datagram and of an initiation it created, and what the
 * test may choose in the messages that it creates (peer.ts).
 */
import type { Inner } from './inner.ts';
import type { Message } from './messages.ts';
import type { SymmetricState } from './noise.ts';
import type { KeyPair } from './primitives.ts';
import type { Session } from './session.ts';
import type { Datagram, WireSocket } from './sockets.ts';

/** One received datagram and what it turned out to be. */
export interface Arrival extends Datagram {
  readonly socket: WireSocket;
  readonly message: Message | null;
  /** Why the datagram breaks the protocol; null when it does not. */
  readonly violation: string | null;
  /** Of a transport message that authenticated. */
  readonly session: Session | null;
  readonly inner: Inner | null;
  /** Of an initiation that authenticated: the 12 bytes of its time stamp. */
  readonly timestamp: Uint8Array | null;
}

/** An initiation that waits for its response or cookie. */
export interface Pending {
  readonly bytes: Uint8Array;
  readonly sender: number;
  readonly timestamp: Uint8Array;
  readonly mac1: Uint8Array;
  readonly ephemeral: KeyPair;
  readonly state: SymmetricState;
  readonly presharedKey: Uint8Array;
  session: Session | null;
}

export interface InitiationOptions {
  readonly timestamp?: Uint8Array;
  readonly sender?: number;
  readonly ephemeral?: KeyPair;
  /** Static key pair instead of the peer's; its halves need not match. */
  readonly identity?: KeyPair;
  readonly presharedKey?: Uint8Array;
  /** undefined: the last one received; null: none. */
  readonly cookie?: Uint8Array | null;
  /** Results of es and ss instead of the computed ones, for low-order points. */
  readonly agreed?: { readonly es?: Uint8Array; readonly ss?: Uint8Array };
}

export interface ResponseOptions {
  readonly sender?: number;
  readonly receiver?: number;
  readonly ephemeral?: KeyPair;
  readonly presharedKey?: Uint8Array;
  readonly cookie?: Uint8Array | null;
}

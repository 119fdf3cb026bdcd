/** What the engine tells its owner, and the settings of a peer. Types only. */
import type { PresharedKey, PublicKey } from '../../keys/keypair.ts';
import type { Endpoint, Offloads, PeerId } from '../dataplane.ts';
import type { HandshakeRefusal } from '../noise/handshake.ts';

export interface PeerSpec {
  readonly publicKey: PublicKey;
  /** Absent: none (32 zero bytes). A change takes effect at the next handshake. */
  readonly presharedKey?: PresharedKey;
  /** Absent: keep what is known. null: forget it. */
  readonly endpoint?: Endpoint | null;
  /** `address/length`; the complete new set, taken from former owners. */
  readonly allowedIps: readonly string[];
  /** Seconds, 0: off. */
  readonly persistentKeepalive: number;
}

export type EngineEvent =
  /** An initiation was sent: 1..20 since something asked for a handshake. */
  | { readonly type: 'attempt'; readonly peer: PeerId; readonly attempt: number }
  /** A new key may be used for sending (responder: its first packet arrived). */
  | {
      readonly type: 'established';
      readonly peer: PeerId;
      readonly role: 'initiator' | 'responder';
      readonly endpoint: Endpoint;
    }
  /** A peer with a usable key has another endpoint than a tick ago. */
  | { readonly type: 'roamed'; readonly peer: PeerId; readonly endpoint: Endpoint }
  /** 20 initiations without an answer; new data or a keepalive starts again. */
  | { readonly type: 'gaveUp'; readonly peer: PeerId }
  /** All keys were wiped, 540 s after the last session was derived. */
  | { readonly type: 'expired'; readonly peer: PeerId }
  /** A decrypted inner packet that is not IP; padding included. */
  | { readonly type: 'control'; readonly peer: PeerId; readonly bytes: Uint8Array }
  /** A handshake message was refused. Nothing was answered and nothing changed. */
  | {
      readonly type: 'refused';
      readonly reason: HandshakeRefusal;
      readonly from: Endpoint;
      /** Static key the sender claims; proven only where `peer` is present. */
      readonly publicKey?: PublicKey;
      readonly peer?: PeerId;
      /** replayedTimestamp: whole seconds before the newest timestamp of the peer. */
      readonly behindSeconds?: number;
    }
  /** An offload was given up for good. */
  | { readonly type: 'fallback'; readonly offload: keyof Offloads; readonly errno: number }
  /** The tun or the sockets failed for good. */
  | { readonly type: 'fault'; readonly where: 'tun' | 'udp'; readonly errno: number };

/**
 * The limits of the protocol and pure functions over them. Constants keep the names of the
 * WireGuard paper (section 6.1), in milliseconds. Holds no state and reads no clock.
 */

/** The engine is ticked this often; every deadline below is met on the first tick after it. */
export const TICK_MS = 250;

export const REKEY_AFTER_TIME = 120_000;
export const REJECT_AFTER_TIME = 180_000;
/** Gap between two initiations, and the wait before a repeat. */
export const REKEY_TIMEOUT = 5_000;
export const KEEPALIVE_TIMEOUT = 10_000;
/** Packets on one key after which a new one is made. */
export const REKEY_AFTER_MESSAGES = 2 ** 60;

/** Initiations sent without an answer before the engine gives up (protocol.md section 4). */
export const MAX_INITIATIONS = 20;
/** Added to a repeat and to the dead-peer wait, so that two peers do not stay in step. */
export const REKEY_TIMEOUT_JITTER_MAX = 333;
/**
 * Initiations created per tick by all peers together, about 40 ms of work: after a restart with
 * 10,000 peers the event loop stays free, and each peer has had its turn in 13 s.
 */
export const INITIATIONS_PER_TICK = 200;
/** A further valid initiation of the same peer within this time is a flood: 1/50 s. */
export const INITIATION_MIN_GAP = 20;
/** All keys are wiped this long after the last session was derived. */
export const WIPE_AFTER_TIME = 3 * REJECT_AFTER_TIME;
/** Data was sent and nothing came back for this long: the peer may have lost its keys. */
export const DEAD_PEER_TIMEOUT = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT;
/** An initiator that only receives renews its key past this age. */
export const REKEY_ON_RECEIVE_AFTER = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT;

/** Uniform 0..333 ms from two random bytes. */
export function jitter(random: (bytes: number) => Uint8Array): number {
  const two = random(2);
  return Math.floor((((two[0]! << 8) | two[1]!) * (REKEY_TIMEOUT_JITTER_MAX + 1)) / 0x1_0000);
}

/** What the rules know of a key. */
export interface KeyAge {
  readonly role: 'initiator' | 'responder';
  /** Milliseconds of CLOCK_BOOTTIME. */
  readonly birth: number;
}

/** True while a key may carry packets. */
export function isUsable(key: KeyAge, now: number): boolean {
  return now - key.birth < REJECT_AFTER_TIME;
}

/**
 * True when sending asks for a new key: the initiator past REKEY_AFTER_TIME, either side past
 * REKEY_AFTER_MESSAGES. `lastSent`: latest transport packet, `counter`: next one of the key.
 */
export function needsRekeyOnSend(key: KeyAge, lastSent: number, counter: number): boolean {
  if (counter > REKEY_AFTER_MESSAGES) return true;
  return key.role === 'initiator' && lastSent - key.birth > REKEY_AFTER_TIME;
}

/** True when receiving asks the initiator for a new key, shortly before this one ends. */
export function needsRekeyOnReceive(key: KeyAge, lastReceived: number): boolean {
  return key.role === 'initiator' && lastReceived - key.birth > REKEY_ON_RECEIVE_AFTER;
}

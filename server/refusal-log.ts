/**
 * Says in the log why handshakes were refused, a line per reason and interval at most: the server
 * knows the cause, the stranger outside gets no answer.
 */
import { keyToBase64 } from '../keys/keypair.ts';
import type { Logger } from '../shared/log.ts';
import type { HandshakeRefusal } from '../shared/noise/handshake.ts';
import type { EngineEvent } from '../shared/session/engine.ts';
import type { Events } from './events.ts';
import { endpointText } from './member.ts';
import type { Registry } from './registry.ts';

type Refused = Extract<EngineEvent, { type: 'refused' }>;

/** Milliseconds between two lines with the same reason. */
const INTERVAL = 10_000;
/** A replayed stamp this much behind is a wrong clock rather than a repeated packet, seconds. */
const WRONG_CLOCK_SECONDS = 60;
const DAY = 86_400;

export class RefusalLog {
  readonly #log: Logger;
  readonly #registry: Registry;
  readonly #events: Events;
  readonly #quietUntil = new Map<HandshakeRefusal, number>();
  readonly #unsaid = new Map<HandshakeRefusal, number>();

  constructor(log: Logger, registry: Registry, events: Events) {
    this.#log = log;
    this.#events = events;
    this.#registry = registry;
  }

  /** `now`: milliseconds of the monotonic clock. */
  add(event: Refused, now: number): void {
    const { reason } = event;
    if (now < (this.#quietUntil.get(reason) ?? 0)) {
      this.#unsaid.set(reason, (this.#unsaid.get(reason) ?? 0) + 1);
      return;
    }
    const unsaid = this.#unsaid.get(reason) ?? 0;
    this.#unsaid.delete(reason);
    this.#quietUntil.set(reason, now + INTERVAL);
    const fields = {
      reason,
      from: endpointText(event.from),
      ...(unsaid === 0 ? {} : { alsoRefused: unsaid }),
    };
    const text = this.#explain(event);
    this.#log.warn(fields, `handshake refused: ${text}`);
    this.#events.add({ type: 'handshakeRefused', reason, from: fields.from, text });
  }

  #explain(event: Refused): string {
    const name = event.peer === undefined ? null : this.#registry.member(event.peer)?.record.name;
    switch (event.reason) {
      case 'malformed':
        return 'not a handshake message';
      case 'lowOrder':
        return 'its key is of low order, which no honest sender has';
      case 'badStatic':
        return 'it is meant for another server key';
      case 'unknownPeer':
        return this.#explainUnknown(event);
      case 'badTimestamp':
        return 'the sender does not own the key it names';
      case 'replayedTimestamp':
        return explainStamp(name ?? 'a peer', event.behindSeconds ?? 0);
      case 'tooSoon':
        return `${name ?? 'a peer'} repeats its handshake too fast`;
      case 'unexpectedResponse':
        return 'a response that nothing was sent for';
      case 'pskMismatch':
        return `the preshared key of ${name ?? 'a peer'} is another one`;
      default:
        return event.reason satisfies never;
    }
  }

  #explainUnknown({ publicKey }: Refused): string {
    if (publicKey === undefined) return 'unknown key';
    const member = this.#registry.memberWithKey(publicKey);
    if (member?.type === 'peer' && member.standing !== 'admitted') {
      const what = member.standing === 'suspended' ? 'is suspended' : 'has expired';
      return `${member.record.name} ${what}`;
    }
    const revoked = this.#registry.revokedName(publicKey);
    return revoked === undefined
      ? `unknown key ${keyToBase64(publicKey)}`
      : `the key of ${revoked} was revoked`;
  }
}

function explainStamp(name: string, behind: number): string {
  if (behind < WRONG_CLOCK_SECONDS) return `a repeated packet of ${name}`;
  const amount = behind < DAY ? `${Math.round(behind / 60)} min` : `${Math.round(behind / DAY)} d`;
  return `the clock of ${name} is ${amount} behind`;
}

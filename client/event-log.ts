/** Events of the engine that the client only writes down. */
import type { Logger } from '../shared/log.ts';
import type { EngineEvent } from '../shared/session/engine.ts';

export type LoggedEvent = Extract<
  EngineEvent,
  { type: 'refused' | 'roamed' | 'expired' | 'fallback' }
>;

export function logEvent(event: LoggedEvent, log: Logger): void {
  switch (event.type) {
    case 'refused':
      log.debug({ reason: event.reason, from: event.from.address }, 'handshake message refused');
      break;
    case 'roamed':
      log.debug({ peer: event.peer, to: event.endpoint.address }, 'endpoint moved');
      break;
    case 'expired':
      log.debug({ peer: event.peer }, 'session expired');
      break;
    case 'fallback':
      log.info({ offload: event.offload, errno: event.errno }, 'offload given up');
      break;
    default:
      event satisfies never;
  }
}

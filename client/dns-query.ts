/** Asks a name server whether it is there: one question for the root's servers. */
import { createSocket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { DNS_PORT, freshId, isAnswer, question, RecordType } from './dns-message.ts';

/** Pauses for an answer after each question, milliseconds. */
const PATIENCE = [700, 1_300, 2_000] as const;

/** True when `server` answers anything to our question; a refusal is an answer. Never rejects. */
export async function answersDns(server: string, port = DNS_PORT): Promise<boolean> {
  const id = freshId();
  const socket = createSocket(isIPv6(server) ? 'udp6' : 'udp4');
  try {
    const heard = new Promise<true>((resolve) => {
      socket.on('error', () => {});
      socket.on('message', (message, from) => {
        if (from.address === server && isAnswer(message, id)) resolve(true);
      });
    });
    for (const patience of PATIENCE) {
      socket.send(question(id, RecordType.ns, '.'), port, server, () => {});
      const late = sleep(patience, false, { ref: false });
      if (await Promise.race([heard, late])) return true;
    }
    return false;
  } finally {
    socket.close();
  }
}

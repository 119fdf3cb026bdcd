/** Asks a name server whether it is there: one question for the root's servers (RFC 1035 section 4). */
import { createSocket } from 'node:dgram';
import { isIPv6 } from 'node:net';
import { randomBytes } from '../shared/noise/crypto.ts';

const PORT = 53;
/** Pauses for an answer after each question, milliseconds. */
const PATIENCE = [700, 1_300, 2_000] as const;

/** True when `server` answers anything to our question; a refusal is an answer. Never rejects. */
export async function answersDns(server: string, port = PORT): Promise<boolean> {
  const id = randomBytes(2);
  // Recursion desired, one question: name of no label, type NS, class IN.
  const question = Uint8Array.of(id[0]!, id[1]!, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1);
  const socket = createSocket(isIPv6(server) ? 'udp6' : 'udp4');
  let answered = false;
  try {
    const heard = new Promise<void>((resolve) => {
      socket.on('error', () => {});
      socket.on('message', (message, from) => {
        if (message[0] !== id[0] || message[1] !== id[1] || from.address !== server) return;
        answered = true;
        resolve();
      });
    });
    for (const patience of PATIENCE) {
      socket.send(question, port, server, () => {});
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, patience);
      });
      await Promise.race([heard, late]);
      clearTimeout(timer);
      if (answered) break;
    }
  } finally {
    socket.close();
  }
  return answered;
}

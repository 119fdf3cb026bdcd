/**
 * Looks the server's name up beside the tunnel, which may be dead, and while nothing else may
 * leave: one query for each family to the host's own name servers, from one UDP port, so that
 * exactly this can be let out for as long as it takes. A wrong answer can do no more than send a
 * handshake, which is sealed for the server, elsewhere. Knows /etc/hosts; no search list, no TCP.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { isIP, isIPv6 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { DNS_PORT, freshId, question, RecordType, readAnswer } from './dns-message.ts';
import { readNameServers } from './host-view.ts';
import type { OpenQuery } from './protection-rules.ts';
import type { LookUp } from './resolve.ts';

/** Lets `query` leave this host beside the tunnel as long as `ask` runs. */
export type LetOut = <T>(query: OpenQuery, ask: () => Promise<T>) => Promise<T>;

/** Time for one name server, ms, and rounds over all of them. */
const TRY_MS = 1_000;
const ROUNDS = 2;

/** A look-up whose queries go out by `letOut`. */
export function lookUpBeside(
  letOut: LetOut,
  readServers: () => readonly string[] = readNameServers,
): LookUp {
  // As the host was before the tunnel brought name servers of its own.
  const atFirst = readServers();
  return async (name) => {
    const written = inHostsFile(name);
    if (written.length > 0) return written;
    const nameServers = atFirst.length > 0 ? atFirst : readServers();
    if (nameServers.length === 0) throw failure('EAI_AGAIN', 'this host has no name server');
    // One port for both families, so that one rule does.
    const six = nameServers.some((address) => isIPv6(address));
    const socket = createSocket(six ? 'udp6' : 'udp4');
    try {
      socket.bind(0);
      await once(socket, 'listening');
      const { port } = socket.address();
      return await letOut({ port, nameServers }, () => ask(socket, six, name, nameServers));
    } finally {
      socket.close();
    }
  };
}

/** Rejects with code ENOTFOUND when the name does not exist, EAI_AGAIN without an answer. */
async function ask(
  socket: Socket,
  six: boolean,
  name: string,
  nameServers: readonly string[],
): Promise<string[]> {
  const queries = [RecordType.a, RecordType.aaaa].map((type) => ({
    type,
    id: freshId(),
    answer: null as readonly string[] | null,
  }));
  let missing = false;
  let complete = (): void => {};
  const all = new Promise<void>((resolve) => {
    complete = resolve;
  });
  socket.on('error', () => {});
  socket.on('message', (message, { address, port }) => {
    if (port !== DNS_PORT || !nameServers.includes(address.replace(/^::ffff:/, ''))) return;
    for (const query of queries) {
      const answer = readAnswer(message, query.id, name);
      if (answer === null) continue;
      missing ||= answer === 'missing';
      query.answer = answer === 'missing' ? [] : answer;
    }
    if (queries.every((query) => query.answer !== null)) complete();
  });
  for (let round = 0; round < ROUNDS; round++) {
    for (const server of nameServers) {
      const to = six && !isIPv6(server) ? `::ffff:${server}` : server;
      for (const { id, type } of queries) {
        // Refused by a rule of the host's own, or no route: another server may do.
        socket.send(question(id, type, name), DNS_PORT, to, () => {});
      }
      await Promise.race([all, sleep(TRY_MS, undefined, { ref: false })]);
      const found = queries.flatMap((query) => query.answer ?? []);
      if (found.length > 0) return found;
      if (missing) throw failure('ENOTFOUND', `${name} does not exist`);
    }
  }
  throw failure('EAI_AGAIN', 'no name server answers');
}

/** Addresses of a name in /etc/hosts. */
function inHostsFile(name: string): string[] {
  let text: string;
  try {
    text = readFileSync('/etc/hosts', 'utf8');
  } catch {
    return [];
  }
  return text.split('\n').flatMap((line) => {
    const [address = '', ...names] = line.split('#')[0]!.trim().split(/\s+/);
    const found = names.some((n) => n.toLowerCase() === name.toLowerCase());
    return found && isIP(address) !== 0 ? [address] : [];
  });
}

function failure(code: string, message: string): Error {
  return Object.assign(new Error(message), { code });
}

/**
 * Looks the server's name up beside the tunnel, which may be dead, and while nothing else may
 * leave: one query for each family to the host's own name servers, from one UDP port, so that
 * exactly this can be let out for as long as it takes. A wrong answer can do no more than send a
 * handshake, which is sealed for the server, elsewhere. Knows /etc/hosts; no search list, no TCP.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { isIP, isIPv6 } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { networkText, parseCidr } from '../shared/cidr.ts';
import type { Endpoint } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import { readHostFile } from '../shared/system/host-file.ts';
import { DNS_PORT, freshId, question, RecordType, readAnswer } from './dns-message.ts';
import { readNameServers } from './host-view.ts';
import type { OpenQuery } from './protection-rules.ts';
import type { LookUp } from './resolve.ts';

/**
 * Lets `query` leave this host beside the tunnel as long as `ask` runs, which is told by its signal
 * when the client ends.
 */
export type LetOut = <T>(query: OpenQuery, ask: (ends: AbortSignal) => Promise<T>) => Promise<T>;

/** Time for one name server, ms, and rounds over all of them. */
const TRY_MS = 1_000;
const ROUNDS = 2;

/** A look-up whose queries go out by `letOut`, to those of `readServers`, at `port`. */
export function lookUpBeside(
  letOut: LetOut,
  readServers: () => readonly string[] = readNameServers,
  port = DNS_PORT,
): LookUp {
  // As the host was before the tunnel brought name servers of its own.
  const atFirst = readServers();
  return async (name) => {
    const written = inHostsFile(name);
    if (written.length > 0) return written;
    // The host may be in another network by now.
    const nameServers = [...new Set([...readServers(), ...atFirst])];
    if (nameServers.length === 0) throw noAnswer('this host has no name server but itself');
    // One port for both families, so that one rule does.
    const six = nameServers.some((address) => isIPv6(address));
    const socket = createSocket(six ? 'udp6' : 'udp4');
    try {
      socket.bind(0);
      await once(socket, 'listening');
      const servers = nameServers.map((address) => ({ address: inFamily(address, six), port }));
      const query = { port: socket.address().port, nameServers };
      return await letOut(query, (ends) => ask(socket, name, servers, ends));
    } finally {
      socket.close();
    }
  };
}

/** An address as a socket writes it in what it received; `six`: it is one of IPv6. */
function inFamily(text: string, six: boolean): string {
  const [bare, scope] = text.split('%') as [string, string | undefined];
  if (!isIPv6(bare)) return six ? `::ffff:${bare}` : bare;
  const plain = networkText(parseCidr(bare)!).split('/')[0]!;
  return scope === undefined ? plain : `${plain}%${scope}`;
}

/**
 * Asks one server after the other until one knows the name. Rejects with code ENOTFOUND when it
 * does not exist, NAME_NOT_RESOLVED without an address, and when the client `ends`.
 */
async function ask(
  socket: Socket,
  name: string,
  servers: readonly Endpoint[],
  ends: AbortSignal,
): Promise<string[]> {
  const queries = [RecordType.a, RecordType.aaaa].map((type) => ({ type, id: freshId() }));
  /** By server and type of the question; late ones count, too. */
  const answers = new Map<string, readonly string[] | 'missing'>();
  const hasAnswered = ({ address }: Endpoint): boolean =>
    queries.every(({ type }) => answers.has(`${address} ${type}`));
  let onAnswer = (): void => {};
  socket.on('error', () => {});
  socket.on('message', (message, { address, port }) => {
    if (!servers.some((server) => server.address === address && server.port === port)) return;
    for (const { id, type } of queries) {
      const answer = readAnswer(message, id, name);
      if (answer !== null) answers.set(`${address} ${type}`, answer);
    }
    onAnswer();
  });
  for (let round = 0; round < ROUNDS; round++) {
    for (const server of servers.filter((one) => !hasAnswered(one))) {
      const answered = new Promise<void>((resolve) => {
        onAnswer = () => hasAnswered(server) && resolve();
      });
      for (const { id, type } of queries) {
        // Refused by a rule of the host's own, or no route: another server may do.
        socket.send(question(id, type, name), server.port, server.address, () => {});
      }
      const late = sleep(TRY_MS, undefined, { ref: false, signal: ends });
      await Promise.race([answered, late.catch(() => {})]);
      ends.throwIfAborted();
      const heard = [...answers.values()];
      const found = heard.flatMap((answer) => (answer === 'missing' ? [] : answer));
      if (found.length > 0) return [...new Set(found)];
      if (heard.includes('missing')) throw Object.assign(new Error(), { code: 'ENOTFOUND' });
    }
  }
  const asked = servers.map(({ address }) => address.replace('::ffff:', '')).join(', ');
  throw noAnswer(answers.size > 0 ? `${asked} has no address of it` : `${asked} does not answer`);
}

/** Addresses of a name in /etc/hosts. */
function inHostsFile(name: string): string[] {
  let text: string;
  try {
    text = readHostFile('/etc/hosts');
  } catch {
    return [];
  }
  return text.split('\n').flatMap((line) => {
    const [address = '', ...names] = line.split('#')[0]!.trim().split(/\s+/);
    const found = names.some((n) => n.toLowerCase() === name.toLowerCase());
    return found && isIP(address) !== 0 ? [address] : [];
  });
}

function noAnswer(why: string): VpnError {
  return new VpnError('NAME_NOT_RESOLVED', why);
}

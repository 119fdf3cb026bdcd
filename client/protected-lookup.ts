/**
 * Looks the server's name up while nothing may leave: one query for each family to the host's own
 * name servers, from one UDP port, and the rules let exactly that out for as long as it takes. A
 * wrong answer can do no more than send a handshake, which is sealed for the server, elsewhere.
 * Knows /etc/hosts and A and AAAA answers (RFC 1035, RFC 3596); no search list, no TCP.
 */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { isIP, isIPv6 } from 'node:net';
import { randomBytes } from '../shared/noise/crypto.ts';
import { readNameServers } from './host-view.ts';
import type { Protection } from './protection.ts';
import type { LookUp } from './resolve.ts';

/** A and AAAA. */
const TYPES = [1, 28] as const;
const HEADER = 12;
const CLASS_IN = 1;
const RECURSION_DESIRED = 0x0100;
const RESPONSE = 0x8000;
const CODE_MASK = 0x000f;
const NAME_ERROR = 3;
/** Time for one name server, ms, and rounds over all of them. */
const TRY_MS = 1_000;
const ROUNDS = 2;

/** A look-up through the protection. */
export function protectedLookUp(
  protection: Pick<Protection, 'during'>,
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
      return await protection.during({ port, nameServers }, () =>
        ask(socket, six, name, nameServers),
      );
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
  const ids = randomBytes(4);
  const queries = TYPES.map((type, at) => ({
    type,
    id: ids[at * 2]! * 256 + ids[at * 2 + 1]!,
    answer: null as readonly string[] | null,
  }));
  let missing = false;
  let complete = (): void => {};
  const all = new Promise<void>((resolve) => {
    complete = resolve;
  });
  socket.on('error', () => {});
  socket.on('message', (message, { address, port }) => {
    if (port !== 53 || !nameServers.includes(address.replace(/^::ffff:/, ''))) return;
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
      // Refused by a rule of the host's own, or no route: another server may do.
      for (const { id, type } of queries) socket.send(question(id, type, name), 53, to, () => {});
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, TRY_MS);
      });
      await Promise.race([all, late]);
      clearTimeout(timer);
      const found = queries.flatMap((query) => query.answer ?? []);
      if (found.length > 0) return found;
      if (missing) throw failure('ENOTFOUND', `${name} does not exist`);
    }
  }
  throw failure('EAI_AGAIN', 'no name server answers');
}

/** A query with one question. */
export function question(id: number, type: number, name: string): Buffer {
  const labels = name.replace(/\.$/, '').split('.');
  const text = Buffer.concat([
    ...labels.map((l) => Buffer.concat([Buffer.of(l.length), Buffer.from(l, 'latin1')])),
    Buffer.of(0),
  ]);
  const query = Buffer.alloc(HEADER + text.length + 4);
  query.writeUInt16BE(id, 0);
  query.writeUInt16BE(RECURSION_DESIRED, 2);
  query.writeUInt16BE(1, 4);
  text.copy(query, HEADER);
  query.writeUInt16BE(type, HEADER + text.length);
  query.writeUInt16BE(CLASS_IN, HEADER + text.length + 2);
  return query;
}

/** Addresses of an answer; null: it is none to this question, or broken. */
export function readAnswer(
  message: Buffer,
  id: number,
  name: string,
): readonly string[] | 'missing' | null {
  try {
    if (message.readUInt16BE(0) !== id || (message.readUInt16BE(2) & RESPONSE) === 0) return null;
    const asked = question(id, 0, name).subarray(HEADER, -4);
    const heard = message.subarray(HEADER, HEADER + asked.length);
    const text = (bytes: Buffer): string => bytes.toString('latin1').toLowerCase();
    if (text(heard) !== text(asked)) return null;
    const code = message.readUInt16BE(2) & CODE_MASK;
    if (code !== 0) return code === NAME_ERROR ? 'missing' : [];
    return addressesFrom(message, HEADER + asked.length + 4, message.readUInt16BE(6));
  } catch {
    // Shorter than it says.
    return null;
  }
}

/** `count` records from `start`; throws RangeError behind the end. */
function addressesFrom(message: Buffer, start: number, count: number): string[] {
  const found: string[] = [];
  let at = start;
  for (let i = 0; i < count; i++) {
    at = afterName(message, at);
    const type = message.readUInt16BE(at);
    const length = message.readUInt16BE(at + 8);
    const data = message.subarray(at + 10, at + 10 + length);
    if (type === 1 && data.length === 4) found.push([...data].join('.'));
    if (type === 28 && data.length === 16) {
      found.push(data.toString('hex').match(/.{4}/g)!.join(':'));
    }
    at += 10 + length;
  }
  return found;
}

/** Where a name ends: after its labels, or a pointer. */
function afterName(message: Buffer, start: number): number {
  let at = start;
  for (;;) {
    const length = message.readUInt8(at);
    if (length === 0) return at + 1;
    if (length >= 0xc0) return at + 2;
    at += 1 + length;
  }
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

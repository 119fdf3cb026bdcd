/** A look-up beside the tunnel, against name servers of its own on this host's loopback. */
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type LetOut, lookUpBeside } from '../../client/lookup-beside.ts';

/** What a server makes of a question: a code of RFC 1035 section 4.1.1, and an address for A. */
interface Answer {
  readonly code: number;
  readonly address?: string;
}
const REFUSED: Answer = { code: 5 };
const NOTHING: Answer = { code: 0 };
const MISSING: Answer = { code: 3 };

let servers: Socket[];
let port: number;
/** Name servers that were let out to. */
let out: (readonly string[])[];
let end: AbortController;
beforeEach(() => {
  [servers, port, out, end] = [[], 0, [], new AbortController()];
});
afterEach(() => {
  for (const server of servers) server.close();
});

/** All servers have the port of the first; null: silent. Result: how often it was asked. */
async function serve(address: string, answer: Answer | null): Promise<() => number> {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  servers.push(socket);
  let asked = 0;
  socket.on('message', (query, from) => {
    asked++;
    if (answer === null) return;
    const isA = query.readUInt16BE(query.length - 4) === 1;
    const has = answer.address !== undefined && isA;
    const head = Buffer.from(query.subarray(0, 12));
    head.writeUInt16BE(0x8180 | answer.code, 2);
    head.writeUInt16BE(has ? 1 : 0, 6);
    const record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4];
    const data = has ? [...record, ...answer.address!.split('.').map(Number)] : [];
    const parts = [head, query.subarray(12), Buffer.from(data)];
    socket.send(Buffer.concat(parts), from.port, from.address);
  });
  socket.bind(port, address);
  await once(socket, 'listening');
  port = socket.address().port;
  return () => asked;
}

const letOut: LetOut = (query, ask) => {
  out.push(query.nameServers);
  return ask(end.signal);
};
const lookUp = (read: () => readonly string[]) => lookUpBeside(letOut, read, port)('vpn.example');

test.each([
  ['refuses', REFUSED],
  ['knows no address', NOTHING],
])('a name server that %s is not the last word', async (_what, answer) => {
  await serve('127.0.0.1', answer);
  await serve('127.0.0.2', { code: 0, address: '192.0.2.7' });
  expect(await lookUp(() => ['127.0.0.1', '127.0.0.2'])).toEqual(['192.0.2.7']);
});

test('a name that does not exist is asked for once, one that nobody knows has none', async () => {
  await serve('127.0.0.1', MISSING);
  const second = await serve('127.0.0.2', { code: 0, address: '192.0.2.7' });
  const found = lookUp(() => ['127.0.0.1', '127.0.0.2']);
  await expect(found).rejects.toMatchObject({ code: 'ENOTFOUND' });
  expect(second()).toBe(0);
  const third = await serve('127.0.0.3', REFUSED);
  await expect(lookUp(() => ['127.0.0.3'])).rejects.toThrow('127.0.0.3 has no address of it');
  expect(third()).toBe(2);
  await expect(lookUp(() => [])).rejects.toMatchObject({
    code: 'NAME_NOT_RESOLVED',
    message: 'this host has no name server but itself',
  });
});

test('in another network its name servers are asked, those of before after them', async () => {
  await serve('127.0.0.1', null);
  await serve('127.0.0.2', { code: 0, address: '192.0.2.7' });
  let here = ['127.0.0.1'];
  const found = lookUpBeside(letOut, () => here, port);
  here = ['127.0.0.2'];
  expect(await found('vpn.example')).toEqual(['192.0.2.7']);
  expect(out).toEqual([['127.0.0.2', '127.0.0.1']]);
});

test.runIf(existsSync('/proc/net/if_inet6'))(
  'servers of both families are asked, however their addresses are written',
  async () => {
    await serve('127.0.0.1', REFUSED);
    await serve('::1', { code: 0, address: '192.0.2.7' });
    expect(await lookUp(() => ['127.0.0.1', '0:0:0:0:0:0:0:1'])).toEqual(['192.0.2.7']);
  },
);

test('it ends with the client', async () => {
  await serve('127.0.0.1', null);
  const found = lookUp(() => ['127.0.0.1']);
  const reason = new Error('the client is stopping');
  setImmediate(() => end.abort(reason));
  await expect(found).rejects.toBe(reason);
});

/** A name server in the tests' networks, and hosts that ask it. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Net } from './harness.ts';

/** A name server that gives one answer, to be read from a file, for every A question. */
const NAME_SERVER = `
const { readFileSync } = require('node:fs');
const socket = require('node:dgram').createSocket('udp4');
socket.on('message', (question, from) => {
  const wantsA = question.readUInt16BE(question.length - 4) === 1;
  const head = Buffer.from(question.subarray(0, 12));
  head.writeUInt16BE(0x8180, 2);
  head.writeUInt16BE(wantsA ? 1 : 0, 6);
  const address = readFileSync(process.argv[1], 'utf8').trim().split('.').map(Number);
  const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, ...address]);
  socket.send([head, question.subarray(12), ...(wantsA ? [record] : [])], from.port, from.address);
});
socket.bind(53, process.argv[2], () => console.log('ready'));
`;

/** Serves `answer` for every name at `address` of a host. Result: the file to write another answer to. */
export async function startNameServer(
  net: Net,
  host: string,
  address: string,
  answer: string,
): Promise<string> {
  const file = join(net.directory, 'answer');
  writeFileSync(file, answer);
  const program = net.start(host, process.execPath, ['-e', NAME_SERVER, file, address]);
  await program.says(/ready/);
  return file;
}

/** Makes a host ask the name server at `address`; becomes part of what it is compared with. */
export function askNameServer(net: Net, host: string, address: string): void {
  writeFileSync(`/etc/netns/${net.namespace(host)}/resolv.conf`, `nameserver ${address}\n`);
  net.remember();
}

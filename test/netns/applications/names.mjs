// A name server that knows one answer, the address in FILE at the time of the question:
// names.mjs ADDRESS FILE; prints each name it is asked for, with the type.
import { createSocket } from 'node:dgram';
import { readFileSync } from 'node:fs';

const [address, file] = process.argv.slice(2);
const socket = createSocket('udp4');
socket.on('message', (query, from) => {
  const labels = [];
  let at = 12;
  while (query[at] > 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + query[at]));
    at += 1 + query[at];
  }
  const type = query.readUInt16BE(at + 1);
  console.log(`asked ${labels.join('.')} ${type}`);
  const count = type === 1 ? 1 : 0;
  const answer = readFileSync(file, 'utf8').trim().split('.').map(Number);
  const header = [query[0], query[1], 0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
  const record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, ...answer];
  const question = query.subarray(12, at + 5);
  const parts = [Buffer.from(header), question, Buffer.from(count === 1 ? record : [])];
  socket.send(Buffer.concat(parts), from.port, from.address);
});
socket.bind(53, address, () => console.log('ready'));

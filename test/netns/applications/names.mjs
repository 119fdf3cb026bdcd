// A name server that knows one answer: names.mjs ADDRESS ANSWER; prints each name it is asked for.
import { createSocket } from 'node:dgram';

const [address, answer] = process.argv.slice(2);
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
  const header = [query[0], query[1], 0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
  const record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, ...answer.split('.').map(Number)];
  const question = query.subarray(12, at + 5);
  const parts = [Buffer.from(header), question, Buffer.from(count === 1 ? record : [])];
  socket.send(Buffer.concat(parts), from.port, from.address);
});
socket.bind(53, address, () => console.log('ready'));

// Sends UDP datagrams: node datagrams.mjs ADDRESS PORT
// Reads one command a line on standard input:
//   HEX            send these bytes
//   flood N SIZE   send N datagrams of SIZE random bytes as fast as the socket takes them
//   shape N HEX    send N datagrams that begin with these bytes, filled with random ones to 148
// Prints "received N" when a datagram comes back, and "done SENT RECEIVED" at the end of input.
import { randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { createInterface } from 'node:readline';

const [address, port] = process.argv.slice(2);
const socket = createSocket('udp4');
let sent = 0;
let received = 0;
socket.on('message', () => {
  received += 1;
});
await new Promise((resolve) => socket.connect(Number(port), address, resolve));

function send(bytes) {
  return new Promise((resolve) => {
    socket.send(bytes, () => {
      sent += 1;
      resolve();
    });
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  const [first, count, rest] = line.trim().split(' ');
  if (first === 'flood') {
    for (let left = Number(count); left > 0; left -= 1) await send(randomBytes(Number(rest)));
  } else if (first === 'shape') {
    const head = Buffer.from(rest, 'hex');
    for (let left = Number(count); left > 0; left -= 1) {
      await send(Buffer.concat([head, randomBytes(148 - head.length)]));
    }
  } else if (first !== '') {
    await send(Buffer.from(first, 'hex'));
  }
}
await new Promise((resolve) => setTimeout(resolve, 1_000));
console.log(`done ${sent} ${received}`);
socket.close();

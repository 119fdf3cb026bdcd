// Answers every UDP datagram and every TCP byte with itself: node echo.mjs ADDRESS PORT
import { createSocket } from 'node:dgram';
import { createServer } from 'node:net';

const [address, port] = process.argv.slice(2);

const udp = createSocket('udp4');
udp.on('message', (message, from) => udp.send(message, from.port, from.address));
const tcp = createServer((socket) => {
  socket.on('error', () => socket.destroy());
  socket.pipe(socket);
});
await new Promise((resolve) => udp.bind(Number(port), address, resolve));
await new Promise((resolve) => tcp.listen(Number(port), address, resolve));
console.log('ready');

// A checksummed TCP stream.
// node stream.mjs sink ADDRESS PORT
//   accepts one connection, answers its end with "BYTES SHA256\n" and prints that.
// node stream.mjs source ADDRESS PORT SECONDS RATE
//   sends RATE bytes a second for SECONDS, prints a line "sent BYTES" each second, then compares
//   the sink's answer with what it sent; exit code 1 when they differ.
import { createHash, randomBytes } from 'node:crypto';
import { connect, createServer } from 'node:net';

const [role, address, port, seconds, rate] = process.argv.slice(2);

function sink() {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    server.close();
    const hash = createHash('sha256');
    let bytes = 0;
    socket.on('data', (part) => {
      hash.update(part);
      bytes += part.length;
    });
    socket.on('end', () => {
      const line = `${bytes} ${hash.digest('hex')}`;
      console.log(line);
      socket.end(`${line}\n`);
    });
  });
  server.listen(Number(port), address, () => console.log('ready'));
}

async function source() {
  const socket = connect({ host: address, port: Number(port), allowHalfOpen: true });
  socket.setNoDelay(true);
  let answer = '';
  socket.setEncoding('utf8').on('data', (text) => {
    answer += text;
  });
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  const hash = createHash('sha256');
  const ticks = Number(seconds) * 20;
  let bytes = 0;
  const began = performance.now();
  for (let tick = 0; tick < ticks; tick += 1) {
    const part = randomBytes(Math.ceil(Number(rate) / 20));
    hash.update(part);
    bytes += part.length;
    if (!socket.write(part)) await new Promise((resolve) => socket.once('drain', resolve));
    if (tick % 20 === 0) console.log(`sent ${bytes}`);
    // By the clock: timers come late on a busy machine, and would add up.
    const pause = began + (tick + 1) * 50 - performance.now();
    if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
  }
  socket.end();
  await new Promise((resolve) => socket.once('end', resolve));
  const expected = `${bytes} ${hash.digest('hex')}`;
  console.log(answer.trim() === expected ? `intact ${bytes}` : `different: ${answer}`);
  process.exit(answer.trim() === expected ? 0 : 1);
}

await (role === 'sink' ? sink() : source());

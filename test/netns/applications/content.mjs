// Exchanges whose every byte is checked: what is sent comes back as it was.
// node content.mjs serve ADDRESS PORT
//   answers every UDP datagram and every TCP byte with itself; prints "ready".
// node content.mjs exchange FROM ADDRESS PORT CONNECTIONS BYTES DATAGRAMS LARGEST SEED
//   sends random bytes over so many TCP connections at once, BYTES in all, then DATAGRAMS UDP
//   datagrams of random sizes 1..LARGEST, several of one size in a row. Prints
//   {"bytes":N,"datagrams":N,"repeated":N}; exit code 1 with the reason when something comes back
//   changed or not at all.
import { createHash, randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { connect, createServer } from 'node:net';

const family = (address) => (address.includes(':') ? 'udp6' : 'udp4');
/** A datagram without answer is sent again after so many ms, so often. */
const PATIENCE_MS = 400;
const TRIES = 8;
/** Datagrams on their way at once, and bytes: sockets hold no more for sure. */
const WINDOW = 24;
const WINDOW_BYTES = 70_000;
const BUFFER_BYTES = 4 << 20;

async function serve([address, port]) {
  const udp = createSocket(family(address));
  udp.on('message', (message, from) => udp.send(message, from.port, from.address));
  const tcp = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.pipe(socket);
  });
  await new Promise((resolve) => udp.bind(Number(port), address, resolve));
  udp.setRecvBufferSize(BUFFER_BYTES);
  await new Promise((resolve) => tcp.listen({ host: address, port: Number(port) }, resolve));
  console.log('ready');
}

/** One connection; resolves when the same bytes came back. */
function overTcp(from, address, port, bytes) {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: address, port, localAddress: from });
    const [sent, received] = [createHash('sha256'), createHash('sha256')];
    let left = bytes;
    let back = 0;
    const write = () => {
      while (left > 0) {
        // Odd pieces, so that segments do not begin where writes do.
        const part = randomBytes(Math.min(left, 1 + Math.floor(Math.random() * 90_000)));
        sent.update(part);
        left -= part.length;
        if (!socket.write(part)) return;
      }
      socket.end();
    };
    socket.on('drain', write).on('connect', write).on('error', reject);
    socket.on('data', (part) => {
      received.update(part);
      back += part.length;
    });
    socket.on('end', () => {
      const same = back === bytes && sent.digest('hex') === received.digest('hex');
      if (same) resolve();
      else reject(new Error(`TCP: ${back} of ${bytes} bytes came back, or others`));
    });
  });
}

/** Small numbers that look random and are the same for each seed (xorshift32). */
function dice(seed) {
  let state = seed | 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

/** All datagrams; resolves to how many had to be sent again. */
function overUdp(from, address, port, sizes) {
  return new Promise((resolve, reject) => {
    const socket = createSocket(family(address));
    const waiting = new Map();
    /** Those without a number that came back. */
    const smallest = new Set();
    let next = 0;
    let flying = 0;
    let repeated = 0;
    // The first bytes tell which one it is; the smallest have no room and fly alone.
    const make = (number) => {
      const bytes = randomBytes(sizes[number]);
      if (bytes.length >= 4) bytes.writeUInt32BE(number);
      return bytes;
    };
    const keyOf = (bytes) => (bytes.length >= 4 ? bytes.readUInt32BE() : -1);
    const send = (entry) => {
      socket.send(entry.bytes, port, address);
      entry.tries += 1;
      entry.timer = setTimeout(() => {
        if (entry.tries === TRIES) {
          reject(new Error(`UDP: ${entry.bytes.length} bytes did not come back`));
          return;
        }
        repeated += 1;
        send(entry);
      }, PATIENCE_MS);
    };
    const fill = () => {
      while (next < sizes.length && waiting.size < WINDOW && !waiting.has(-1)) {
        const small = sizes[next] < 4;
        if (waiting.size > 0 && (small || flying + sizes[next] > WINDOW_BYTES)) break;
        const entry = { bytes: make(next), tries: 0, timer: undefined };
        next += 1;
        flying += entry.bytes.length;
        waiting.set(keyOf(entry.bytes), entry);
        send(entry);
      }
    };
    socket.on('message', (message) => {
      const key = keyOf(message);
      const entry = waiting.get(key);
      if (!entry?.bytes.equals(message)) {
        // A second answer to a repeated datagram is no news.
        if (key === -1 ? smallest.has(message.toString('hex')) : !entry && key < next) return;
        reject(new Error(`UDP: ${message.length} bytes came back changed`));
        return;
      }
      if (key === -1) smallest.add(message.toString('hex'));
      clearTimeout(entry.timer);
      waiting.delete(key);
      flying -= message.length;
      fill();
      if (waiting.size === 0 && next === sizes.length) {
        socket.close();
        resolve(repeated);
      }
    });
    socket.on('error', reject);
    socket.bind(0, from, () => {
      socket.setRecvBufferSize(BUFFER_BYTES);
      fill();
    });
  });
}

async function exchange([from, address, port, connections, bytes, datagrams, largest, seed]) {
  const each = Math.ceil(Number(bytes) / Number(connections));
  const streams = Array.from({ length: Number(connections) }, () =>
    overTcp(from, address, Number(port), each),
  );
  await Promise.all(streams);
  const random = dice(Number(seed));
  const sizes = [];
  while (sizes.length < Number(datagrams)) {
    const size = 1 + random(random(3) === 0 ? Number(largest) : Math.min(Number(largest), 1500));
    for (let i = random(20); i >= 0 && sizes.length < Number(datagrams); i -= 1) sizes.push(size);
  }
  const repeated = sizes.length > 0 ? await overUdp(from, address, Number(port), sizes) : 0;
  console.log(JSON.stringify({ bytes: each * streams.length, datagrams: sizes.length, repeated }));
}

const [role, ...rest] = process.argv.slice(2);
try {
  await (role === 'serve' ? serve(rest) : exchange(rest));
  if (role === 'exchange') process.exit(0);
} catch (error) {
  console.error(error.message);
  process.exit(1);
}

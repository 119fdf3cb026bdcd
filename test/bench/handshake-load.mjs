/**
 * The load of the handshake benchmark, a process of its own in a client's namespace: many peers,
 * each from its own address as in real life, that shake hands with one server.
 *
 * All initiations are made before the clock starts and all responses are verified after it stopped,
 * so that on a small machine the load takes little of the processor that it measures. What it leaves
 * out: the first data packet, which confirms the key.
 *
 * Usage: node handshake-load.mjs FILE; FILE holds Load as JSON. Writes `ready`, waits for SIGUSR2,
 * then writes Outcome as JSON.
 */
import { createSocket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { xchacha20poly1305 } from '@noble/ciphers/chacha.js';
import { blake2s } from '@noble/hashes/blake2.js';
import { load } from './product.mjs';
import { percentile } from './statistics.mjs';

/**
 * @typedef {object} Load
 * @property {{address: string, port: number, publicKey: string}} server Key in base64.
 * @property {{privateKey: string, presharedKey: string | null}[]} peers
 * @property {string[]} sources Addresses to send from.
 * @property {number} rate Initiations per second; 0: as fast as answers come.
 * @property {number} inFlight At rate 0: how many peers wait for an answer at a time.
 * @property {number} seconds
 */

/**
 * @typedef {object} Outcome
 * @property {number} seconds
 * @property {number} sent
 * @property {number} answered
 * @property {number} verified Answers whose tag was right.
 * @property {number} cookies Cookie replies: the server was under load.
 * @property {number | null} p50Ms From initiation to response.
 * @property {number | null} p99Ms
 */

/** At rate 0 this many are made in advance for each second; no server of one thread does more. */
const MOST_PER_SECOND = 3000;
const ANSWER_TIMEOUT_MS = 1000;
const PACE_MS = 4;
const COOKIE_REPLY_BYTES = 64;
const MAC1_AT = 116;
const MAC2_AT = 132;

const /** @type {Load} */ job = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8'));
/** @type {typeof import('../../shared/noise/handshake.ts')} */
const noise = await load('shared/noise/handshake');
/** @type {typeof import('../../shared/noise/messages.ts')} */
const { parseHandshake } = await load('shared/noise/messages');
/** @type {typeof import('../../shared/noise/crypto.ts')} */
const { generateDh } = await load('shared/noise/crypto');
/** @type {typeof import('../../shared/noise/tai64n.ts')} */
const { encodeTai64n, nextTai64n } = await load('shared/noise/tai64n');

const serverKey = Buffer.from(job.server.publicKey, 'base64');
const mac1Key = blake2s(Buffer.concat([Buffer.from('mac1----'), serverKey]));
const cookieKey = blake2s(Buffer.concat([Buffer.from('cookie--'), serverKey]));

/**
 * @typedef {object} Attempt
 * @property {Buffer} message
 * @property {ReturnType<typeof makePeer>} peer
 * @property {import('../../shared/noise/handshake.ts').PendingInitiation} pending
 * @property {number} socket
 * @property {number} sentAt
 * @property {Buffer | null} response
 * @property {boolean} closed Answered or given up.
 */

/** @param {Load['peers'][number]} keys */
function makePeer(keys) {
  const key = /** @type {import('../../keys/keypair.ts').PrivateKey} */ (
    new Uint8Array(Buffer.from(keys.privateKey, 'base64'))
  );
  const identity = noise.createIdentity(key);
  const server = /** @type {import('../../keys/keypair.ts').PublicKey} */ (
    /** @type {Uint8Array} */ (serverKey)
  );
  const remote = noise.createRemoteStatic(identity, server);
  const psk = keys.presharedKey ? Buffer.from(keys.presharedKey, 'base64') : new Uint8Array(32);
  const now = Date.now();
  const stamp = encodeTai64n({ seconds: Math.floor(now / 1000), nanoseconds: (now % 1000) * 1e6 });
  return { identity, remote, psk, stamp };
}

/** @param {number} count @returns {Attempt[]} Index i waits under session index i. */
function prepare(count) {
  const peers = job.peers.map(makePeer);
  return Array.from({ length: count }, (_, i) => {
    const peer = /** @type {ReturnType<typeof makePeer>} */ (peers[i % peers.length]);
    // A replayed or equal stamp is refused.
    peer.stamp = nextTai64n(peer.stamp);
    const made = noise.createInitiation(peer.identity, peer.remote, i, generateDh(), peer.stamp);
    if (made === null) throw new Error('the key of a peer is of low order');
    const message = Buffer.from(made.message);
    message.set(blake2s(message.subarray(0, MAC1_AT), { key: mac1Key, dkLen: 16 }), MAC1_AT);
    const socket = (i % peers.length) % job.sources.length;
    const { pending } = made;
    return { message, peer, pending, socket, sentAt: 0, response: null, closed: false };
  });
}

const attempts = prepare(job.seconds * (job.rate || MOST_PER_SECOND));
/** @type {(Uint8Array | null)[]} Cookie of each socket. */
const cookies = job.sources.map(() => null);
const counts = { sent: 0, answered: 0, cookies: 0 };
let running = false;

/** Sends the next initiation; false when all were sent. */
function sendNext() {
  const attempt = attempts[counts.sent];
  if (attempt === undefined) return false;
  counts.sent += 1;
  const cookie = cookies[attempt.socket];
  if (cookie) {
    const mac2 = blake2s(attempt.message.subarray(0, MAC2_AT), { key: cookie, dkLen: 16 });
    attempt.message.set(mac2, MAC2_AT);
  }
  attempt.sentAt = performance.now();
  sockets[attempt.socket]?.send(attempt.message, job.server.port, job.server.address);
  return true;
}

/** @param {Buffer} message @param {number} socket */
function receive(message, socket) {
  if (message.length === COOKIE_REPLY_BYTES) {
    counts.cookies += 1;
    const asked = attempts[message.readUInt32LE(4)];
    if (asked === undefined) return;
    const mac1 = asked.message.subarray(MAC1_AT, MAC2_AT);
    const nonce = message.subarray(8, 32);
    cookies[socket] = xchacha20poly1305(cookieKey, nonce, mac1).decrypt(message.subarray(32));
    return;
  }
  const parsed = parseHandshake(message);
  const attempt = parsed?.type === 'response' ? attempts[parsed.receiver] : undefined;
  if (attempt === undefined || attempt.response !== null || !running) return;
  attempt.response = message;
  counts.answered += 1;
  const isFirst = !attempt.closed;
  attempt.closed = true;
  // Verified later: only the time of arrival counts now.
  latencies.push(performance.now() - attempt.sentAt);
  if (job.rate === 0 && isFirst) sendNext();
}

/** @type {number[]} */
const latencies = [];
const sockets = await Promise.all(
  job.sources.map(async (address, i) => {
    const socket = createSocket({ type: 'udp4', recvBufferSize: 1 << 20 });
    socket.on('message', (message) => receive(message, i));
    await new Promise((resolve) => socket.bind(0, address, () => resolve(undefined)));
    return socket;
  }),
);

await new Promise((resolve) => {
  process.once('SIGUSR2', () => resolve(undefined));
  process.stdout.write('ready\n');
});
running = true;
const began = performance.now();
const seconds = () => (performance.now() - began) / 1000;
let oldest = 0;
if (job.rate === 0) for (let i = 0; i < job.inFlight; i++) sendNext();
while (seconds() < job.seconds && counts.sent < attempts.length) {
  await sleep(PACE_MS);
  if (job.rate > 0) {
    while (counts.sent < seconds() * job.rate && sendNext());
    continue;
  }
  // A lost one frees its place after a while.
  for (; oldest < counts.sent; oldest++) {
    const attempt = /** @type {Attempt} */ (attempts[oldest]);
    if (attempt.closed) continue;
    if (performance.now() - attempt.sentAt < ANSWER_TIMEOUT_MS) break;
    attempt.closed = true;
    sendNext();
  }
}
const took = seconds();
const { sent, answered } = counts;
// Late answers count for none of the rates, but they must not look like losses of the verification.
running = false;
for (const socket of sockets) socket.close();

let verified = 0;
for (const { response, peer, pending } of attempts) {
  const parsed = response === null ? null : parseHandshake(response);
  if (parsed?.type !== 'response') continue;
  const keys = noise.consumeResponse(peer.identity, pending, parsed, peer.psk);
  if (typeof keys !== 'string') verified += 1;
}
latencies.sort((a, b) => a - b);
/** @type {Outcome} */
const outcome = {
  seconds: took,
  sent,
  answered,
  verified,
  cookies: counts.cookies,
  p50Ms: percentile(latencies, 0.5),
  p99Ms: percentile(latencies, 0.99),
};
process.stdout.write(`${JSON.stringify(outcome)}\n`);

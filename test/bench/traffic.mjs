/**
 * Traffic between two hosts: TCP and UDP streams by iperf3, round trips by ping. One figure each,
 * with the CPU time that the daemons of the tunnel spent on it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { cpuSeconds } from './processes.mjs';
import { percentile } from './statistics.mjs';
import { namespaceOf } from './topology.mjs';

const PORT = '5201';
/** Time that an iperf3 run may need beyond its traffic. */
const SLACK_MS = 20_000;
/** A ping every 2 ms: quick, yet far from loading anything by itself. */
const PING_INTERVAL_S = 0.002;

/**
 * @typedef {object} Bench What every measurement needs.
 * @property {import('./processes.mjs').Processes} processes
 * @property {import('./tunnels/tunnel.mjs').Tunnel} tunnel
 * @property {number} seconds Length of a stream.
 * @property {number} pings Round trips of one ping run.
 */

/** @param {Bench} bench @param {import('./topology.mjs').Host} host */
async function listen({ processes }, host) {
  const argv = ['iperf3', '-s', '-1', '-p', PORT, '--forceflush'];
  const server = processes.start(namespaceOf(host), argv);
  await processes.waitForOutput(server, 'Server listening');
  return server;
}

/**
 * One iperf3 run from client a; its JSON report.
 * @param {Bench} bench
 * @param {'server' | 'b'} to
 * @param {string[]} options
 * @param {number} seconds
 */
async function stream(bench, to, options, seconds) {
  const server = await listen(bench, to);
  try {
    const address = bench.tunnel.addresses[to];
    const argv = ['iperf3', '-c', address, '-p', PORT, '-t', String(seconds), '-J', ...options];
    const timeoutMs = seconds * 1000 + SLACK_MS;
    const text = await bench.processes.run(namespaceOf('a'), argv, { timeoutMs, check: false });
    const report = JSON.parse(text || '{"error": "no report"}');
    if (report.error) throw new Error(`iperf3: ${report.error}`);
    return report;
  } finally {
    await bench.processes.stop(server);
  }
}

/**
 * TCP from client a, or towards it with `-R`.
 * @param {Bench} bench @param {'server' | 'b'} to @param {string[]} options iperf3's
 * @returns {Promise<{gbps: number, cpuSecondsPerGb: number | null, retransmits: number}>}
 */
export async function tcp(bench, to, options) {
  const before = cpuSeconds(bench.tunnel.daemons);
  const { end } = await stream(bench, to, options, bench.seconds);
  const spent = cpuSeconds(bench.tunnel.daemons) - before;
  return {
    gbps: round(end.sum_received.bits_per_second / 1e9, 3),
    cpuSecondsPerGb: perUnit(bench, spent, end.sum_received.bytes / 1e9),
    retransmits: end.sum_sent.retransmits ?? 0,
  };
}

/**
 * UDP datagrams from client a to the server.
 * @param {Bench} bench
 * @param {number} payload Bytes of UDP payload.
 * @param {string} rate Offered, as iperf3 writes it; 0: as fast as it can.
 */
export async function udp(bench, payload, rate) {
  const before = cpuSeconds(bench.tunnel.daemons);
  const options = ['-u', '-l', String(payload), '-b', rate];
  const { end } = await stream(bench, 'server', options, bench.seconds);
  const spent = cpuSeconds(bench.tunnel.daemons) - before;
  const received = end.sum.packets - end.sum.lost_packets;
  return {
    kpps: round(received / end.sum.seconds / 1e3, 1),
    gbps: round((received * payload * 8) / end.sum.seconds / 1e9, 3),
    lossPercent: round(end.sum.lost_percent, 1),
    cpuSecondsPerMpacket: perUnit(bench, spent, received / 1e6),
  };
}

/**
 * Round trips from client a to the server, in microseconds.
 * @param {Bench} bench
 * @param {string[] | null} load iperf3 options of a TCP stream that runs meanwhile; null: idle.
 */
export async function ping(bench, load) {
  const address = bench.tunnel.addresses.server;
  const pingSeconds = bench.pings * PING_INTERVAL_S;
  // One second for the stream to reach its rate and one in hand, so that it outlasts the pings.
  const background = load ? stream(bench, 'server', load, Math.ceil(pingSeconds) + 2) : null;
  // Failure is reported below, when awaited; until then it must not count as unhandled.
  background?.catch(() => {});
  if (background) await sleep(1000);
  const argv = [
    'ping',
    '-i',
    String(PING_INTERVAL_S),
    '-c',
    String(bench.pings),
    '-W',
    '2',
    address,
  ];
  const timeoutMs = pingSeconds * 4000 + SLACK_MS;
  const text = await bench.processes.run(namespaceOf('a'), argv, { timeoutMs, check: false });
  const micros = [...text.matchAll(/time=([\d.]+) ms/g)]
    .map((match) => Number(match[1]) * 1000)
    .sort((a, b) => a - b);
  const report = await background;
  return {
    p50Us: roundOrNull(percentile(micros, 0.5)),
    p99Us: roundOrNull(percentile(micros, 0.99)),
    maxUs: roundOrNull(micros.at(-1) ?? null),
    lost: bench.pings - micros.length,
    ...(report && { loadGbps: round(report.end.sum_received.bits_per_second / 1e9, 3) }),
  };
}

/** @param {Bench} bench @param {number} seconds @param {number} units */
function perUnit({ tunnel }, seconds, units) {
  return tunnel.daemons.length > 0 && units > 0 ? round(seconds / units, 3) : null;
}

/** @param {number} value @param {number} digits */
function round(value, digits) {
  return Math.round(value * 10 ** digits) / 10 ** digits;
}

/** @param {number | null} value */
function roundOrNull(value) {
  return value === null ? null : Math.round(value);
}

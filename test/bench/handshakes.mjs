/**
 * `npm run bench -- handshakes`: how many handshakes one server process answers in a second while a
 * transfer of another client runs through it, and what the transfer loses by it.
 *
 *   client a (vpn-client, TCP up) ---- server ---- b (handshake-load.mjs, many peers)
 *
 * The peers are enrolled beforehand through the server's local socket.
 */
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { createFolder, removeFolders } from './folder.mjs';
import { count, UsageError } from './options.mjs';
import { cpuSeconds, residentMb } from './processes.mjs';
import { load, ROOT } from './product.mjs';
import { format } from './statistics.mjs';
import { createTopology, deleteTopology, namespaceOf, SERVER_SEEN_FROM } from './topology.mjs';
import { startClient, startServer } from './tunnels/culvert.mjs';
import { PORT } from './tunnels/tunnel.mjs';

const HELP = `Examples:
  npm run bench -- handshakes
  npm run bench -- handshakes --rate 0 --transfer 0

  --rate N        handshakes offered per second (default 2000); 0: as many as are answered
  --in-flight N   at rate 0: how many peers wait at a time (default 64)
  --seconds N     length of the load (default 10)
  --peers N       how many different peers (default 500)
  --transfer R    rate of the TCP transfer beside it, as iperf3 writes it (default 1G);
                  0: as fast as it can, none: no transfer
  --json FILE     write the figures
`;

/** Room for many peers, which 192.168.1.0/24 has not. */
const NETWORK = '10.66.0.0/16';
const INNER = { server: '10.66.0.1', a: '10.66.0.2', b: '10.66.0.3' };
/** Addresses of the load, 10.77.2.FIRST_SOURCE and up: the server limits handshakes per address. */
const FIRST_SOURCE = 3;
const SOURCES = 250;
/** Seconds of transfer before and after the load. */
const BEFORE_S = 5;
const AFTER_S = 2;
/** Less than is offered by default: the answers to the last ones are on their way at the end. */
const TARGET_PER_SECOND = 1500;
const TARGET_DIP_PERCENT = 10;
const PREPARE_TIMEOUT_MS = 120_000;

/**
 * @typedef {object} Settings
 * @property {number} rate
 * @property {number} inFlight
 * @property {number} seconds
 * @property {number} peers
 * @property {string} transfer
 */

/**
 * @param {string[]} argv
 * @param {() => import('./processes.mjs').Processes} prepareHost Checks for root, cleans up at exit.
 * @returns {Promise<number>} Exit code.
 */
export async function runHandshakes(argv, prepareHost) {
  const { values } = parseArgs({
    args: argv,
    options: {
      help: { type: 'boolean' },
      rate: { type: 'string', default: '2000' },
      'in-flight': { type: 'string', default: '64' },
      seconds: { type: 'string', default: '10' },
      peers: { type: 'string', default: '500' },
      transfer: { type: 'string', default: '1G' },
      json: { type: 'string' },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  if (!/^(none|\d+[KMG]?)$/.test(values.transfer)) {
    throw new UsageError(`--transfer: "${values.transfer}" is not a rate such as 500M`);
  }
  const settings = {
    rate: count('--rate', values.rate, 0, 100_000),
    inFlight: count('--in-flight', values['in-flight'], 1, 10_000),
    seconds: count('--seconds', values.seconds, 1, 600),
    peers: count('--peers', values.peers, 1, 10_000),
    transfer: values.transfer,
  };
  const figures = await measureHandshakes(settings, prepareHost());
  for (const [name, value] of Object.entries(figures)) {
    process.stdout.write(`${name.padEnd(24)} ${typeof value === 'number' ? format(value) : '–'}\n`);
  }
  const { perSecond, transferDipPercent: dip } = figures;
  const enough = typeof perSecond === 'number' && perSecond >= TARGET_PER_SECOND;
  const met = enough && typeof dip === 'number' && dip < TARGET_DIP_PERCENT;
  const target = `${TARGET_PER_SECOND} per second, transfer less than ${TARGET_DIP_PERCENT} % down`;
  process.stdout.write(`target: ${target}: ${met ? 'met' : 'not met'}\n`);
  if (values.json) {
    writeFileSync(values.json, `${JSON.stringify({ settings, figures }, null, 1)}\n`);
  }
  return figures.verified === figures.answered ? 0 : 1;
}

/**
 * @param {Settings} settings
 * @param {import('./processes.mjs').Processes} processes
 * @returns {Promise<Record<string, number | null>>}
 */
async function measureHandshakes(settings, processes) {
  const folder = createFolder();
  try {
    createTopology('plain');
    const context = { processes, folder, root: ROOT, wireguardGo: null };
    const server = await startServer(context, {}, ['--network', NETWORK]);
    if (settings.transfer !== 'none') {
      await startClient(context, {}, server, 'a', INNER);
    }
    const job = join(folder, 'load.json');
    writeFileSync(job, JSON.stringify(await enrol(settings, server)), { mode: 0o600 });
    await addSources(processes, folder);
    const argv = [process.execPath, join(ROOT, 'test/bench/handshake-load.mjs'), job];
    const generator = processes.start(namespaceOf('b'), argv);
    await processes.waitForOutput(generator, 'ready\n', PREPARE_TIMEOUT_MS);
    return await runLoad(settings, processes, server, generator);
  } finally {
    await processes.stopAll();
    deleteTopology();
    removeFolders();
  }
}

/**
 * @param {Settings} settings
 * @param {import('./processes.mjs').Processes} processes
 * @param {import('./tunnels/culvert.mjs').Server} server
 * @param {import('./processes.mjs').Started} generator
 */
async function runLoad(settings, processes, server, generator) {
  const { transfer, seconds } = settings;
  const stream = transfer === 'none' ? null : await startTransfer(settings, processes);
  const streamBegan = Date.now();
  const cpuIdle = cpuSeconds([server.daemon]);
  await sleep(BEFORE_S * 1000);
  const cpuBefore = cpuSeconds([server.daemon]);
  const from = (Date.now() - streamBegan) / 1000;
  process.kill(generator.pid, 'SIGUSR2');
  await sleep(seconds * 1000);
  const cpuAfter = cpuSeconds([server.daemon]);
  const memoryMb = residentMb(server.daemon);
  const { stdout, stderr } = await generator.done;
  const report = stdout.split('\n').find((line) => line.startsWith('{'));
  if (report === undefined) throw new Error(`the load failed: ${stderr.slice(-300)}`);
  /** @type {import('./handshake-load.mjs').Outcome} */
  const outcome = JSON.parse(report);
  const rates = stream === null ? null : JSON.parse((await stream.done).stdout);
  // A server that no longer answers must not pass for a slow one.
  await server.ask('status');
  const before = meanGbps(rates, 1, from);
  const during = meanGbps(rates, from, from + outcome.seconds);
  return {
    perSecond: outcome.answered / outcome.seconds,
    sent: outcome.sent,
    answered: outcome.answered,
    verified: outcome.verified,
    cookieReplies: outcome.cookies,
    p50Ms: outcome.p50Ms,
    p99Ms: outcome.p99Ms,
    transferBeforeGbps: before,
    transferDuringGbps: during,
    transferDipPercent: before && during !== null ? (1 - during / before) * 100 : null,
    serverCpuBefore: (cpuBefore - cpuIdle) / BEFORE_S,
    serverCpuDuring: (cpuAfter - cpuBefore) / seconds,
    serverMemoryMb: memoryMb,
  };
}

/**
 * Makes the peers; each keeps the private key that the server shows once.
 * @param {Settings} settings
 * @param {import('./tunnels/culvert.mjs').Server} server
 * @returns {Promise<import('./handshake-load.mjs').Load>}
 */
async function enrol({ peers, rate, inFlight, seconds }, { runFolder }) {
  const name = readdirSync(runFolder).find((file) => file.endsWith('.sock'));
  if (name === undefined) throw new Error('vpn-server has no local socket');
  const socket = join(runFolder, name);
  /** @type {typeof import('../../shared/system/local-socket.ts')} */
  const { callLocalSocket } = await load('shared/system/local-socket');
  const endpoint = { address: SERVER_SEEN_FROM.b, port: PORT };
  const endpoints = [`${endpoint.address}:${endpoint.port}`];
  /** @type {import('./handshake-load.mjs').Load['peers']} */
  const keys = [];
  let publicKey = '';
  for (let i = 0; i < peers; i++) {
    const request = { name: `load-${i}`, endpoints, address: null };
    const reply = /** @type {{profile: string}} */ (
      await callLocalSocket(socket, 'profile', request)
    );
    const value = (/** @type {string} */ name) =>
      new RegExp(`^${name}\\s*=\\s*(\\S+)`, 'm').exec(reply.profile)?.[1];
    publicKey = value('PublicKey') ?? '';
    keys.push({
      privateKey: value('PrivateKey') ?? '',
      presharedKey: value('PresharedKey') ?? null,
    });
  }
  const sources = Array.from({ length: SOURCES }, (_, i) => sourceAddress(i));
  return { server: { ...endpoint, publicKey }, peers: keys, sources, rate, inFlight, seconds };
}

/** @param {import('./processes.mjs').Processes} processes @param {string} folder */
async function addSources(processes, folder) {
  const lines = Array.from({ length: SOURCES }, (_, i) => {
    return `address add ${sourceAddress(i)}/24 dev eth0\n`;
  });
  const batch = join(folder, 'sources');
  writeFileSync(batch, lines.join(''));
  await processes.run(namespaceOf('b'), ['ip', '-batch', batch]);
}

/** @param {number} i */
function sourceAddress(i) {
  return `10.77.2.${FIRST_SOURCE + i}`;
}

/** @param {Settings} settings @param {import('./processes.mjs').Processes} processes */
async function startTransfer({ transfer, seconds }, processes) {
  const sink = processes.start(namespaceOf('server'), ['iperf3', '-s', '-1', '--forceflush']);
  await processes.waitForOutput(sink, 'Server listening');
  const length = ['-t', String(BEFORE_S + seconds + AFTER_S), '-i', '0.5'];
  const argv = ['iperf3', '-c', INNER.server, '-J', ...length, '-b', transfer];
  return processes.start(namespaceOf('a'), argv);
}

/**
 * Mean rate of the intervals that lie wholly in a span, seconds since the start of the stream.
 * @param {any} report iperf3's @param {number} from @param {number} to
 * @returns {number | null}
 */
function meanGbps(report, from, to) {
  /** @type {number[]} */
  const rates = [];
  for (const { sum } of report?.intervals ?? []) {
    if (sum.start >= from && sum.end <= to) rates.push(sum.bits_per_second / 1e9);
  }
  return rates.length > 0 ? rates.reduce((a, b) => a + b, 0) / rates.length : null;
}

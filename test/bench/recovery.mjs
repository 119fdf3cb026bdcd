/**
 * Seconds until a client's traffic is back when the server was killed (kill -9) and started again:
 *
 *   node test/bench/recovery.mjs [TUNNEL...] [--down SECONDS] [--rounds N]
 *
 * A ping runs in the tunnel all the time, 20 a second; what counts is the time from the command
 * that starts the server again to the first answer. Needs root. Installed wireguard-go is used.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { createFolder, removeFolders } from './folder.mjs';
import { Processes } from './processes.mjs';
import { ROOT } from './product.mjs';
import { createTopology, deleteTopology, namespaceOf } from './topology.mjs';
import { TUNNELS } from './tunnels/all.mjs';
import { INNER, INNER_MTU } from './tunnels/tunnel.mjs';

const PATIENCE_S = 150;
/** Between two looks at what came. */
const STEP_MS = 20;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    down: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '3' },
  },
});

/** Fields of a file in /proc that are separated by NUL. @param {number} pid @param {string} file */
function fieldsOf(pid, file) {
  return readFileSync(`/proc/${pid}/${file}`, 'utf8').split('\0').filter(Boolean);
}

/**
 * One round: a tunnel, a kill, a start; the seconds, or null when nothing came back.
 * @param {string} name
 * @returns {Promise<number | null>}
 */
async function measure(name) {
  const processes = new Processes();
  const folder = createFolder();
  const server = namespaceOf('server');
  createTopology('plain');
  try {
    const start = TUNNELS[name];
    if (start === undefined) throw new Error(`there is no tunnel ${name}`);
    const context = { processes, folder, root: ROOT, wireguardGo: '/usr/bin/wireguard-go' };
    const { daemons, addresses } = await start(context);
    const [daemon] = daemons;
    if (daemon === undefined) throw new Error(`${name} has no server`);
    const isWireguard = name === 'wireguard-go';
    const settings = join(folder, 'settings');
    if (isWireguard) {
      const text = await processes.run(server, ['wg', 'showconf', server]);
      writeFileSync(settings, text, { mode: 0o600 });
    }
    const argv = fieldsOf(daemon.pid, 'cmdline');
    const env = Object.fromEntries(
      fieldsOf(daemon.pid, 'environ').map((line) => {
        const at = line.indexOf('=');
        return [line.slice(0, at), line.slice(at + 1)];
      }),
    );
    const every = ['-i', '0.05', '-w', String(PATIENCE_S)];
    const ping = processes.start(namespaceOf('a'), [
      'ping',
      '-n',
      '-D',
      ...every,
      addresses.server,
    ]);
    await sleep(2_000);
    process.kill(daemon.pid, 'SIGKILL');
    await daemon.done;
    await sleep(Number(values.down) * 1_000);
    const from = Date.now();
    processes.start(server, argv, { log: join(folder, 'again.log'), env });
    if (isWireguard) await configure(processes, server, settings);
    for (;;) {
      const times = [...ping.output().matchAll(/^\[([\d.]+)\].*time=/gm)];
      const first = times.map((match) => Number(match[1]) * 1_000).find((at) => at > from);
      if (first !== undefined) return (first - from) / 1_000;
      if (Date.now() - from > PATIENCE_S * 1_000) return null;
      await sleep(STEP_MS);
    }
  } finally {
    await processes.stopAll();
    deleteTopology();
    removeFolders();
  }
}

/**
 * What its operator's script would do as soon as the device is there.
 * @param {Processes} processes @param {string} device @param {string} settings
 */
async function configure(processes, device, settings) {
  const end = Date.now() + 5_000;
  for (;;) {
    try {
      await processes.run(device, ['wg', 'setconf', device, settings]);
      break;
    } catch (error) {
      if (Date.now() > end) throw error;
      await sleep(STEP_MS);
    }
  }
  await processes.run(device, ['ip', 'address', 'add', `${INNER.server}/24`, 'dev', device]);
  await processes.run(device, ['ip', 'link', 'set', device, 'mtu', String(INNER_MTU), 'up']);
}

const names = positionals.length > 0 ? positionals : ['culvert', 'wireguard-go', 'openvpn'];
for (const name of names) {
  const seconds = [];
  for (let round = 0; round < Number(values.rounds); round++) seconds.push(await measure(name));
  console.log(JSON.stringify({ name, down: Number(values.down), seconds }));
}

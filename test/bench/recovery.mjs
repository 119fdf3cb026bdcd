/**
 * Seconds until a client's traffic is back after something has happened to its tunnel:
 *
 *   node test/bench/recovery.mjs [TUNNEL...] [--event NAME] [--down SECONDS] [--rounds N]
 *
 * Events are restart (of the killed server, the default), rebind, client-moves and server-moves. A
 * ping runs in the tunnel all the time, 20 a second; what counts is the time to the first answer.
 * Needs root. Installed wireguard-go is used.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { createFolder, removeFolders } from './folder.mjs';
import { Processes } from './processes.mjs';
import { ROOT } from './product.mjs';
import { EVENTS, SERVER_NAME } from './recovery-events.mjs';
import {
  createTopology,
  deleteTopology,
  nameHosts,
  namespaceOf,
  SERVER_SEEN_FROM,
} from './topology.mjs';
import { TUNNELS } from './tunnels/all.mjs';

const PATIENCE_S = 240;
/** Between two looks at what came. */
const STEP_MS = 20;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    event: { type: 'string', default: 'restart' },
    down: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '3' },
  },
});
const event = EVENTS[values.event];
if (event === undefined) throw new Error(`events are ${Object.keys(EVENTS).join(', ')}`);

/**
 * One round; the seconds, or null when nothing came back.
 * @param {string} name
 * @returns {Promise<number | null>}
 */
async function measure(name) {
  const processes = new Processes();
  const folder = createFolder();
  createTopology('plain');
  try {
    const start = TUNNELS[name];
    if (start === undefined) throw new Error(`there is no tunnel ${name}`);
    const seenFrom = { a: SERVER_NAME, b: SERVER_NAME };
    for (const client of /** @type {const} */ (['a', 'b'])) {
      nameHosts(client, { [SERVER_NAME]: SERVER_SEEN_FROM[client] });
    }
    const wireguardGo = '/usr/bin/wireguard-go';
    const context = { processes, folder, root: ROOT, wireguardGo, seenFrom };
    const { daemons, addresses } = await start(context);
    const [daemon] = daemons;
    if (daemon === undefined) throw new Error(`${name} has no server`);
    const isWireguard = name === 'wireguard-go';
    const scene = { processes, daemon, folder, isWireguard, downMs: Number(values.down) * 1_000 };
    await event?.before?.(scene);
    const every = ['-i', '0.05', '-w', String(PATIENCE_S)];
    const ping = processes.start(namespaceOf('a'), [
      'ping',
      '-n',
      '-D',
      ...every,
      addresses.server,
    ]);
    await sleep(2_000);
    if (!ping.output().includes('time=')) throw new Error(`${name} carries nothing`);
    const from = (await event?.happen(scene)) ?? 0;
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

const names = positionals.length > 0 ? positionals : ['culvert', 'wireguard-go', 'openvpn'];
for (const name of names) {
  const seconds = [];
  for (let round = 0; round < Number(values.rounds); round++) seconds.push(await measure(name));
  const { event, down } = values;
  const more = event === 'restart' ? { down: Number(down) } : {};
  console.log(JSON.stringify({ name, event, ...more, seconds }));
}

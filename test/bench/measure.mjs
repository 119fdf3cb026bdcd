/**
 * Goes through rounds, veths and tunnels, interleaved: every tunnel once in each round, so that a
 * slower hour of the machine meets all of them. Owns the order and the clean-up of one run.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createFolder, removeFolders } from './folder.mjs';
import { residentMb } from './processes.mjs';
import { QUICK_OPENSSL_SCENARIOS, SCENARIOS, SPLIT_SCENARIOS, scenarioOf } from './scenarios.mjs';
import { createTopology, deleteTopology, HOSTS, mtuOf } from './topology.mjs';
import { TUNNELS } from './tunnels/all.mjs';

const MEMORY_SAMPLE_MS = 250;

/**
 * @typedef {object} Plan
 * @property {import('./options.mjs').Options} options
 * @property {import('./processes.mjs').Processes} processes
 * @property {string} root
 * @property {string | null} wireguardGo
 * @property {(line: string) => void} say
 */

/** @param {Plan} plan @returns {Promise<import('./results.mjs').Run[]>} */
export async function measure(plan) {
  const { tunnels, veths, rounds } = plan.options;
  /** @type {import('./results.mjs').Run[]} */
  const runs = [];
  for (let round = 0; round < rounds; round++) {
    for (const veth of veths) {
      // Each round begins with another tunnel: none always follows the same one.
      const shift = round % tunnels.length;
      for (const tunnel of [...tunnels.slice(shift), ...tunnels.slice(0, shift)]) {
        runs.push(await measureOne(plan, round + 1, veth, tunnel));
      }
    }
  }
  const order = (/** @type {{tunnel: string}} */ run) => tunnels.indexOf(run.tunnel);
  return runs.sort((x, y) => x.round - y.round || order(x) - order(y));
}

/**
 * @param {Plan} plan @param {number} round @param {import('./topology.mjs').Veth} veth @param {string} name
 * @returns {Promise<import('./results.mjs').Run>}
 */
async function measureOne(plan, round, veth, name) {
  const { options, processes, root, wireguardGo, say } = plan;
  const folder = createFolder();
  /** @type {import('./results.mjs').Run} */
  const run = { round, veth, tunnel: name, facts: {}, figures: {}, memoryMb: {}, errors: {} };
  const label = `round ${round}  ${veth.padEnd(5)}  ${name.padEnd(15)}`;
  try {
    createTopology(veth);
    const start = TUNNELS[name];
    if (start === undefined) throw new Error(`no tunnel called ${name}`);
    const tunnel = await start({ processes, folder, root, wireguardGo });
    run.facts = { ...tunnel.facts, mtu: sharedMtu(tunnel) };
    run.memoryMb.idle = tunnel.daemons.map(residentMb);
    for (const scenario of scenariosFor(options, veth, name)) {
      await measureScenario(run, scenario, { processes, tunnel, ...options }, label, say);
    }
  } catch (error) {
    run.errors.start = `${messageOf(error)}${lastWords(folder)}`;
    say(`${label}  not started: ${run.errors.start}`);
  } finally {
    await processes.stopAll();
    deleteTopology();
    removeFolders();
  }
  return run;
}

/**
 * @param {import('./results.mjs').Run} run
 * @param {import('./scenarios.mjs').Scenario} scenario
 * @param {import('./traffic.mjs').Bench} bench
 * @param {string} label
 * @param {(line: string) => void} say
 */
async function measureScenario(run, scenario, bench, label, say) {
  const { daemons } = bench.tunnel;
  let most = daemons.map(residentMb);
  const timer = setInterval(() => {
    most = daemons.map((daemon, i) => Math.max(most[i] ?? 0, residentMb(daemon)));
  }, MEMORY_SAMPLE_MS);
  try {
    const figures = await scenario.measure(bench);
    run.figures[scenario.name] = figures;
    if (daemons.length > 0) run.memoryMb[scenario.name] = most;
    const text = Object.entries(figures).map(([key, value]) => `${key} ${value ?? '–'}`);
    say(`${label}  ${scenario.name.padEnd(8)}  ${text.join('  ')}`);
  } catch (error) {
    run.errors[scenario.name] = messageOf(error);
    say(`${label}  ${scenario.name.padEnd(8)}  not measured: ${messageOf(error)}`);
  } finally {
    clearInterval(timer);
  }
}

/**
 * @param {import('./options.mjs').Options} options @param {import('./topology.mjs').Veth} veth @param {string} tunnel
 * @returns {import('./scenarios.mjs').Scenario[]}
 */
function scenariosFor(options, veth, tunnel) {
  const all = SCENARIOS.map((scenario) => scenario.name);
  const names = options.scenarios ?? (veth === 'split' ? SPLIT_SCENARIOS : all);
  const isShort = options.quick && tunnel === 'culvert-openssl';
  const wanted = isShort ? names.filter((name) => QUICK_OPENSSL_SCENARIOS.includes(name)) : names;
  return wanted.map(scenarioOf).filter((scenario) => scenario !== undefined);
}

/**
 * The MTU of all three hosts' devices; a tunnel whose hosts differ would not be compared fairly.
 * @param {import('./tunnels/tunnel.mjs').Tunnel} tunnel
 */
function sharedMtu({ addresses }) {
  const mtus = HOSTS.map((host) => mtuOf(host, addresses[host]) ?? 0);
  const mtu = mtus[0] ?? 0;
  if (mtus.some((other) => other !== mtu)) throw new Error(`MTUs differ: ${mtus.join(', ')}`);
  return mtu;
}

/** @param {unknown} error */
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}

/** The end of the server's log, which says why a tunnel did not come up. @param {string} folder */
function lastWords(folder) {
  try {
    const text = readFileSync(join(folder, 'server.log'), 'utf8').trim();
    return text === '' ? '' : `; the server's log ends: ${text.slice(-300)}`;
  } catch {
    return '';
  }
}

/**
 * The results of a whole run: what each scenario gave in each round, and questions put to them.
 * This object, as JSON, is the record of the run. Pure.
 */
import { spread } from './statistics.mjs';

/**
 * @typedef {object} Run One tunnel on one veth in one round.
 * @property {number} round
 * @property {import('./topology.mjs').Veth} veth
 * @property {string} tunnel
 * @property {Record<string, string | number>} facts
 * @property {Record<string, Record<string, number | null>>} figures By scenario, then figure.
 * @property {Record<string, number[]>} memoryMb By scenario: the most that server, client a and
 *   client b held while it ran; `idle` before the first.
 * @property {Record<string, string>} errors By scenario, or `start`.
 */

/**
 * @typedef {object} Results
 * @property {number} format
 * @property {string} takenAt RFC 3339.
 * @property {Record<string, unknown>} machine
 * @property {Record<string, unknown>} versions
 * @property {{rounds: number, seconds: number, pings: number, quick: boolean}} settings
 * @property {Run[]} runs
 */

/**
 * The figures of all rounds, in order; rounds without it are left out.
 * @param {Results} results
 * @param {string} tunnel
 * @param {import('./topology.mjs').Veth} veth
 * @param {string} scenario
 * @param {string} figure
 */
export function summary(results, tunnel, veth, scenario, figure) {
  const runs = results.runs.filter((run) => run.tunnel === tunnel && run.veth === veth);
  return spread(runs.map((run) => figureOf(run, scenario, figure)));
}

/**
 * Our figure divided by another tunnel's, round by round, so that what slows the machine for a
 * while slows both.
 * @param {Results} results
 * @param {string} ours
 * @param {string} theirs
 * @param {import('./topology.mjs').Veth} veth
 * @param {string} scenario
 * @param {string} figure
 */
export function ratio(results, ours, theirs, veth, scenario, figure) {
  const ratios = results.runs
    .filter((run) => run.tunnel === ours && run.veth === veth)
    .map((run) => {
      const other = results.runs.find(
        (r) => r.tunnel === theirs && r.veth === veth && r.round === run.round,
      );
      const own = figureOf(run, scenario, figure);
      const peer = other ? figureOf(other, scenario, figure) : null;
      return own === null || !peer ? null : own / peer;
    });
  return spread(ratios);
}

/** In place of a scenario's name: the most of each of them. Memory only. */
export const ANY_LOAD = 'any load';
/** What is not a load. */
const IDLE = ['idle', 'ping'];

/**
 * A figure of one run. `serverMemoryMb` and `clientMemoryMb`: of one process while the scenario ran.
 * @param {Run} run @param {string} scenario @param {string} figure
 * @returns {number | null}
 */
function figureOf(run, scenario, figure) {
  if (figure === 'serverMemoryMb') return memoryOf(run, scenario, 0);
  if (figure === 'clientMemoryMb') return memoryOf(run, scenario, 1);
  return run.figures[scenario]?.[figure] ?? null;
}

/** @param {Run} run @param {string} scenario @param {number} process */
function memoryOf({ memoryMb }, scenario, process) {
  if (scenario !== ANY_LOAD) return memoryMb[scenario]?.[process] ?? null;
  const loads = Object.entries(memoryMb).filter(([name]) => !IDLE.includes(name));
  const most = loads.flatMap(([, processes]) => processes[process] ?? []);
  return most.length > 0 ? Math.max(...most) : null;
}

/** Tunnels in the order in which they were first measured. @param {Results} results */
export function tunnelsOf(results) {
  return [...new Set(results.runs.map((run) => run.tunnel))];
}

/** @param {Results} results */
export function vethsOf(results) {
  return [...new Set(results.runs.map((run) => run.veth))];
}

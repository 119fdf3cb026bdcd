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

/**
 * A figure of one run. `serverMemoryMb` and `clientMemoryMb`: of one process while the scenario ran.
 * @param {Run} run @param {string} scenario @param {string} figure
 * @returns {number | null}
 */
function figureOf(run, scenario, figure) {
  if (figure === 'serverMemoryMb') return run.memoryMb[scenario]?.[0] ?? null;
  if (figure === 'clientMemoryMb') return run.memoryMb[scenario]?.[1] ?? null;
  return run.figures[scenario]?.[figure] ?? null;
}

/** Tunnels in the order in which they were first measured. @param {Results} results */
export function tunnelsOf(results) {
  return [...new Set(results.runs.map((run) => run.tunnel))];
}

/** @param {Results} results */
export function vethsOf(results) {
  return [...new Set(results.runs.map((run) => run.veth))];
}

/**
 * The targets as ratios to other tunnels in one run on one machine, and whether a run met them.
 */
import { ANY_LOAD, ratio } from './results.mjs';

/**
 * @typedef {object} Target
 * @property {string} title
 * @property {string} ours
 * @property {string} theirs
 * @property {import('./topology.mjs').Veth} veth
 * @property {string} scenario
 * @property {string} figure
 * @property {'least' | 'most'} bound
 * @property {number} limit
 */

/**
 * Title, scenario, figure, veth, bound, limit against wireguard-go and against OpenVPN (null: none).
 * @type {readonly [string, string, string, 'plain' | 'split', 'least' | 'most', number | null, number | null][]}
 */
const ROWS = [
  ['up', 'up', 'gbps', 'plain', 'least', 2.5, 10],
  ['down', 'down', 'gbps', 'plain', 'least', 2.5, 10],
  ['up, split', 'up', 'gbps', 'split', 'least', 4, 5],
  ['down, split', 'down', 'gbps', 'split', 'least', 4, 5],
  ['relay', 'relay', 'gbps', 'plain', 'least', 3.5, 8],
  ['relay, split', 'relay', 'gbps', 'split', 'least', 5, 4],
  ['4 streams up', 'up4', 'gbps', 'plain', 'least', 2.5, 10],
  ['32 streams up', 'up32', 'gbps', 'plain', 'least', 2.5, 10],
  ['CPU seconds per GB, up', 'up', 'cpuSecondsPerGb', 'plain', 'most', 0.36, 0.1],
  ['small datagrams per second', 'small', 'kpps', 'plain', 'least', 5, 2],
  ['ping p50, idle', 'ping', 'p50Us', 'plain', 'most', 0.5, 0.9],
  ['ping p99 while up saturates', 'pingload', 'p99Us', 'plain', 'most', 0.45, 0.3],
  ['ping p50 at 1 Gbit/s paced', 'ping1g', 'p50Us', 'plain', 'most', 0.45, null],
  ['ping p99 at 1 Gbit/s paced', 'ping1g', 'p99Us', 'plain', 'most', 0.2, 0.05],
  ['memory of the server under load', ANY_LOAD, 'serverMemoryMb', 'plain', 'most', 0.25, null],
  ['memory of a client under load', ANY_LOAD, 'clientMemoryMb', 'plain', 'most', 0.25, null],
];

/** @type {readonly Target[]} */
export const TARGETS = [
  ...ROWS.flatMap(([title, scenario, figure, veth, bound, wireguardGo, openvpn]) =>
    [
      { theirs: 'wireguard-go', limit: wireguardGo },
      { theirs: 'openvpn', limit: openvpn },
    ].flatMap(({ theirs, limit }) =>
      limit === null
        ? []
        : [{ title, ours: 'culvert', theirs, veth, scenario, figure, bound, limit }],
    ),
  ),
  .../** @type {const} */ ([
    ['up, OpenSSL back end', 'up', 1.6],
    ['relay, OpenSSL back end', 'relay', 2],
  ]).map(
    ([title, scenario, limit]) =>
      /** @type {Target} */ ({
        title,
        ours: 'culvert-openssl',
        theirs: 'wireguard-go',
        veth: 'plain',
        scenario,
        figure: 'gbps',
        bound: 'least',
        limit,
      }),
  ),
];

/**
 * @param {import('./results.mjs').Results} results
 * @returns {(Target & {measured: import('./statistics.mjs').Spread | null, met: boolean | null})[]}
 *   met is null when it was not measured.
 */
export function judge(results) {
  return TARGETS.map((target) => {
    const { ours, theirs, veth, scenario, figure, bound, limit } = target;
    const measured = ratio(results, ours, theirs, veth, scenario, figure);
    const met =
      measured && (bound === 'least' ? measured.median >= limit : measured.median <= limit);
    return { ...target, measured, met };
  });
}

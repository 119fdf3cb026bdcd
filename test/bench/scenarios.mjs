/**
 * What is measured: one row for each scenario, in the order of the report. Names, options and
 * figures are those of the measuring stick that is used from outside, so that both can be compared.
 */
import { ping, tcp, udp } from './traffic.mjs';

/** 28 bytes of IPv4 and UDP header more: 1,400-byte packets. */
const UDP_PAYLOAD = 1372;
const SMALL_PAYLOAD = 100;

/**
 * @typedef {object} Scenario
 * @property {string} name
 * @property {string} title
 * @property {string} figure Name of the main figure in the result.
 * @property {string} unit
 * @property {(bench: import('./traffic.mjs').Bench) => Promise<Record<string, number | null>>} measure
 */

/** @type {readonly Scenario[]} */
export const SCENARIOS = [
  tcpScenario('up', 'TCP, client to server', 'server', []),
  tcpScenario('down', 'TCP, server to client', 'server', ['-R']),
  tcpScenario('relay', 'TCP, client to client', 'b', []),
  tcpScenario('up4', 'TCP, 4 streams up', 'server', ['-P', '4']),
  tcpScenario('up32', 'TCP, 32 streams up', 'server', ['-P', '32']),
  {
    name: 'udp',
    title: 'UDP, 1,400-byte packets received, 3 Gbit/s offered',
    figure: 'gbps',
    unit: 'Gbit/s',
    measure: (bench) => udp(bench, UDP_PAYLOAD, '3G'),
  },
  {
    name: 'small',
    title: 'UDP, 100-byte datagrams received',
    figure: 'kpps',
    unit: 'thousand/s',
    measure: (bench) => udp(bench, SMALL_PAYLOAD, '0'),
  },
  pingScenario('ping', 'Ping, idle', 'p50Us', null),
  pingScenario('pingload', 'Ping p99 while TCP saturates', 'p99Us', []),
  pingScenario('ping1g', 'Ping p99 beside TCP paced to 1 Gbit/s', 'p99Us', ['-b', '1G']),
];

/** What the split picture is taken of, unless scenarios are named. */
export const SPLIT_SCENARIOS = ['up', 'down', 'relay'];
/** What --quick takes. */
export const QUICK_SCENARIOS = [
  'up',
  'down',
  'relay',
  'up4',
  'small',
  'ping',
  'pingload',
  'ping1g',
];
/** What the second AEAD back end is measured on in --quick: the scenarios that have a target for it. */
export const QUICK_OPENSSL_SCENARIOS = ['up', 'relay'];

/** @param {string} name */
export function scenarioOf(name) {
  return SCENARIOS.find((scenario) => scenario.name === name);
}

/**
 * @param {string} name @param {string} title @param {'server' | 'b'} to @param {string[]} options
 * @returns {Scenario}
 */
function tcpScenario(name, title, to, options) {
  return { name, title, figure: 'gbps', unit: 'Gbit/s', measure: (b) => tcp(b, to, options) };
}

/**
 * @param {string} name @param {string} title @param {string} figure @param {string[] | null} load
 * @returns {Scenario}
 */
function pingScenario(name, title, figure, load) {
  return { name, title, figure, unit: 'µs', measure: (bench) => ping(bench, load) };
}

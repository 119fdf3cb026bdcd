/**
 * What the command line asks for: `npm run bench -- OPTIONS`.
 */
import { parseArgs } from 'node:util';
import { QUICK_SCENARIOS, SCENARIOS, SPLIT_SCENARIOS, scenarioOf } from './scenarios.mjs';
import { DEFAULT_TUNNELS, TUNNELS } from './tunnels/all.mjs';

/** The command line is wrong; the message says how. */
export class UsageError extends Error {}

export const HELP = `Examples:
  npm run bench -- --quick
  npm run bench -- --impl culvert,wireguard-go --scenario up,relay --rounds 5 --veth split

Compares tunnels in network namespaces (root). Other benchmarks: npm run bench -- micro,
npm run bench -- handshakes; both take --help.

  --quick            one short round, plain veth, under two minutes
  --impl LIST        ${Object.keys(TUNNELS).join(', ')}
                     (default: ${DEFAULT_TUNNELS.join(', ')})
  --scenario LIST    ${SCENARIOS.map((s) => s.name).join(', ')}
                     (default: all; on split veth ${SPLIT_SCENARIOS.join(', ')})
  --rounds N         rounds, interleaved (default 3, quick 1)
  --seconds N        length of each stream (default 6, quick 2)
  --veth plain|split|both   (default both, quick plain)
  --json FILE, --markdown FILE, --svg FILE   (default: in bench-results/)
  --publish          write into docs/bench/ instead of bench-results/
  --wireguard-go FILE   use this binary instead of the one of Debian's backports
`;

/**
 * @typedef {object} Options
 * @property {boolean} quick
 * @property {string[]} tunnels
 * @property {string[] | null} scenarios null: the default of each veth.
 * @property {number} rounds
 * @property {number} seconds
 * @property {number} pings
 * @property {import('./topology.mjs').Veth[]} veths
 * @property {boolean} publish
 * @property {string | undefined} json
 * @property {string | undefined} markdown
 * @property {string | undefined} svg
 * @property {string | undefined} wireguardGo
 */

/**
 * @param {string[]} argv
 * @returns {Options | 'help'} Throws UsageError, or parseArgs' own errors.
 */
export function parseOptions(argv) {
  const { values } = parseArgs({
    args: argv,
    options: {
      help: { type: 'boolean' },
      quick: { type: 'boolean', default: false },
      impl: { type: 'string' },
      scenario: { type: 'string' },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      veth: { type: 'string' },
      json: { type: 'string' },
      markdown: { type: 'string' },
      svg: { type: 'string' },
      publish: { type: 'boolean', default: false },
      'wireguard-go': { type: 'string' },
    },
  });
  if (values.help) return 'help';
  const { quick } = values;
  return {
    quick,
    tunnels: list('--impl', values.impl, (name) => name in TUNNELS) ?? DEFAULT_TUNNELS,
    scenarios:
      list('--scenario', values.scenario, (name) => scenarioOf(name) !== undefined) ??
      (quick ? QUICK_SCENARIOS : null),
    rounds: count('--rounds', values.rounds ?? (quick ? '1' : '3'), 1, 100),
    seconds: count('--seconds', values.seconds ?? (quick ? '2' : '6'), 1, 600),
    pings: quick ? 500 : 2000,
    veths: vethsOf(values.veth ?? (quick ? 'plain' : 'both')),
    publish: values.publish,
    json: values.json,
    markdown: values.markdown,
    svg: values.svg,
    wireguardGo: values['wireguard-go'],
  };
}

/** @param {string} flag @param {string | undefined} text @param {(name: string) => boolean} isKnown */
function list(flag, text, isKnown) {
  if (text === undefined) return null;
  const names = text.split(',').map((name) => name.trim());
  const unknown = names.find((name) => !isKnown(name));
  if (unknown !== undefined) throw new UsageError(`${flag}: "${unknown}" is not known`);
  return names;
}

/**
 * A whole number of the command line.
 * @param {string} flag @param {string} text @param {number} least @param {number} most
 */
export function count(flag, text, least, most) {
  const number = Number(text);
  if (text === '' || !Number.isInteger(number) || number < least || number > most) {
    throw new UsageError(`${flag}: "${text}" is not a number from ${least} to ${most}`);
  }
  return number;
}

/** @param {string} text @returns {import('./topology.mjs').Veth[]} */
function vethsOf(text) {
  if (text === 'both') return ['plain', 'split'];
  if (text === 'plain' || text === 'split') return [text];
  throw new UsageError(`--veth: "${text}" is not plain, split or both`);
}

/**
 * The report as Markdown tables: what was measured on what, medians with spread, targets.
 */
import { ANY_LOAD, summary, tunnelsOf, vethsOf } from './results.mjs';
import { SCENARIOS } from './scenarios.mjs';
import { format } from './statistics.mjs';
import { judge } from './targets.mjs';

/**
 * Figures of the table beside the main figure of each scenario: scenario, figure, title.
 * @type {Record<string, readonly [string, string][]>}
 */
const FURTHER = {
  up: [['cpuSecondsPerGb', 'CPU seconds per GB, all three processes']],
  relay: [['cpuSecondsPerGb', 'CPU seconds per GB, all three processes']],
  udp: [['lossPercent', 'lost, %']],
  small: [['cpuSecondsPerMpacket', 'CPU seconds per million']],
  ping: [['p99Us', 'p99, µs']],
  pingload: [
    ['p50Us', 'p50, µs'],
    ['loadGbps', 'the TCP stream beside it, Gbit/s'],
  ],
  ping1g: [['p50Us', 'p50, µs']],
};

/** The most under any of the scenarios: figure, title. @type {readonly [string, string][]} */
const MEMORY = [
  ['serverMemoryMb', 'memory of the server under any load, MB'],
  ['clientMemoryMb', 'memory of client a under any load, MB'],
];

/** Load above which a reader must know that other work ran beside. */
const BUSY = 0.3;

/** @param {import('./results.mjs').Results} results @returns {string} */
export function toMarkdown(results) {
  const parts = [heading(results), ...vethsOf(results).map((veth) => table(results, veth))];
  return `${[...parts, targets(results), errors(results)].filter(Boolean).join('\n\n')}\n`;
}

/** @param {import('./results.mjs').Results} results */
function heading({ takenAt, machine, versions, settings, runs }) {
  const { cpu, cores, cpuFlags, kernel, system, loadBefore } = /** @type {Record<string, any>} */ (
    machine
  );
  const programs = Object.entries(versions)
    .filter(([, version]) => version !== null)
    .map(([name, version]) => `${name} ${version}`);
  // Equal in all runs of a tunnel, so the last may speak for them.
  const facts = new Map(
    runs.map(({ tunnel, facts }) => [
      tunnel === 'raw' ? 'no tunnel' : tunnel,
      Object.entries(facts)
        .map(([name, value]) => `${name} ${value}`)
        .join(', ') || 'not started',
    ]),
  );
  return [
    `Taken ${takenAt.slice(0, 10)} on ${cpu}, ${cores} cores (${cpuFlags.join(' ')}), ` +
      `${system}, Linux ${kernel}.${loadBefore > BUSY ? ` Busy at the start: load ${loadBefore}.` : ''}`,
    `${programs.join(' · ')}.`,
    `${settings.rounds} interleaved round(s) of ${settings.seconds} s per stream and ` +
      `${settings.pings} pings; median (lowest to highest).`,
    `${[...facts].map(([tunnel, text]) => `${tunnel}: ${text}`).join(' · ')}.`,
  ].join('\n');
}

/** @param {import('./results.mjs').Results} results @param {import('./topology.mjs').Veth} veth */
function table(results, veth) {
  const tunnels = tunnelsOf(results);
  const titles = tunnels.map((tunnel) => (tunnel === 'raw' ? 'no tunnel' : tunnel));
  const lines = [
    `**${veth} veth**`,
    '',
    `| scenario | ${titles.join(' | ')} |`,
    `|---|${tunnels.map(() => '---:|').join('')}`,
  ];
  const addRow = (
    /** @type {string} */ label,
    /** @type {[string, string]} */ [scenario, figure],
  ) => {
    const cells = tunnels.map((tunnel) => cell(summary(results, tunnel, veth, scenario, figure)));
    if (cells.some((text) => text !== '–')) lines.push(`| ${label} | ${cells.join(' | ')} |`);
  };
  for (const { name, title, figure, unit } of SCENARIOS) {
    addRow(`\`${name}\` ${title}, ${unit}`, [name, figure]);
    for (const [further, label] of FURTHER[name] ?? []) addRow(`… ${label}`, [name, further]);
  }
  for (const [figure, label] of MEMORY) addRow(label, [ANY_LOAD, figure]);
  return lines.join('\n');
}

/** @param {import('./results.mjs').Results} results */
function targets(results) {
  const rows = judge(results).filter(({ measured }) => measured !== null);
  if (rows.length === 0) return '';
  const lines = [
    '**Targets** (ratio of ours to the other tunnel in the same round)',
    '',
    '| target | against | wanted | measured | met |',
    '|---|---|---:|---:|---|',
  ];
  for (const { title, theirs, bound, limit, measured, met } of rows) {
    const wanted = `${bound === 'least' ? '≥' : '≤'} ${limit}`;
    lines.push(
      `| ${title} | ${theirs} | ${wanted} | ${cell(measured)} | ${met ? 'yes' : '**no**'} |`,
    );
  }
  return lines.join('\n');
}

/** @param {import('./results.mjs').Results} results */
function errors(results) {
  const lines = results.runs.flatMap((run) =>
    Object.entries(run.errors).map(
      ([scenario, message]) =>
        `- round ${run.round}, ${run.veth}, ${run.tunnel}, ${scenario}: ${message.split('\n')[0]}`,
    ),
  );
  return lines.length > 0 ? ['**Not measured**', '', ...lines].join('\n') : '';
}

/** @param {import('./statistics.mjs').Spread | null} figure */
function cell(figure) {
  if (figure === null) return '–';
  const { median, min, max, count } = figure;
  return count === 1 ? format(median) : `${format(median)} (${format(min)} to ${format(max)})`;
}

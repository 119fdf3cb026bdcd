/**
 * `npm run bench`: the command line of the benchmarks. Compares tunnels; `micro` and `handshakes` as
 * first word run the other two. Figures go to files, the table to standard output, progress to
 * standard error. Exit codes: 0 all measured, 1 something could not be measured, 2 usage,
 * 4 not root.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { toSvg } from './chart.mjs';
import { removeFolders, removeStaleFolders } from './folder.mjs';
import { runHandshakes } from './handshakes.mjs';
import { describeMachine, describeVersions } from './machine.mjs';
import { toMarkdown } from './markdown.mjs';
import { measure } from './measure.mjs';
import { runMicro } from './micro/micro.mjs';
import { HELP, parseOptions, UsageError } from './options.mjs';
import { Processes } from './processes.mjs';
import { ROOT, requireBuilt } from './product.mjs';
import { judge } from './targets.mjs';
import { deleteStaleTopologies, deleteTopology } from './topology.mjs';
import { fetchWireguardGo } from './tunnels/wireguard-go.mjs';

class NotRoot extends Error {}

/** @param {string} line */
const say = (line) => process.stderr.write(`${line}\n`);

/**
 * @param {string[]} argv
 * @returns {Promise<number>} Exit code.
 */
async function compare(argv) {
  const options = parseOptions(argv);
  if (options === 'help') {
    process.stdout.write(HELP);
    return 0;
  }
  const processes = prepareHost();
  // Said before minutes are spent on the others.
  if (options.tunnels.some((tunnel) => tunnel.startsWith('culvert'))) requireBuilt();
  const began = Date.now();
  const wireguardGo = !options.tunnels.includes('wireguard-go')
    ? null
    : (options.wireguardGo ?? fetchWireguardGo(join(ROOT, 'bench-results/tools/wireguard-go')));
  const machine = describeMachine();
  const versions = describeVersions(ROOT, wireguardGo);
  const runs = await measure({ options, processes, root: ROOT, wireguardGo, say });
  const { rounds, seconds, pings, quick } = options;
  /** @type {import('./results.mjs').Results} */
  const results = {
    format: 1,
    takenAt: new Date(began).toISOString(),
    machine,
    versions,
    settings: { rounds, seconds, pings, quick },
    runs,
  };
  const markdown = toMarkdown(results);
  for (const [file, text] of [
    [
      options.json ?? fileFor(options, 'json'),
      `${JSON.stringify({ ...results, targets: judge(results) }, null, 1)}\n`,
    ],
    [options.markdown ?? fileFor(options, 'md'), markdown],
    [options.svg ?? fileFor(options, 'svg'), toSvg(results)],
  ]) {
    mkdirSync(dirname(resolve(file ?? '')), { recursive: true });
    writeFileSync(file ?? '', text ?? '');
    say(`wrote ${file}`);
  }
  process.stdout.write(markdown);
  say(`took ${Math.round((Date.now() - began) / 1000)} s`);
  return runs.some((run) => Object.keys(run.errors).length > 0) ? 1 : 0;
}

/**
 * One published record for each version, so that versions can be compared; local ones by time.
 * @param {import('./options.mjs').Options} options @param {string} extension
 */
function fileFor(options, extension) {
  if (!options.publish) return join(ROOT, 'bench-results', `tunnels.${extension}`);
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  return join(ROOT, 'docs/bench', `tunnels-${version}.${extension}`);
}

/** Namespaces need root; whatever happens, nothing stays behind. */
function prepareHost() {
  if (process.getuid?.() !== 0) throw new NotRoot('Network namespaces need root.');
  const processes = new Processes();
  deleteStaleTopologies();
  removeStaleFolders();
  process.once('exit', () => {
    processes.killAll();
    deleteTopology();
    removeFolders();
  });
  process.once('SIGINT', () => process.exit(130));
  process.once('SIGTERM', () => process.exit(143));
  return processes;
}

/**
 * @param {string[]} argv
 * @returns {Promise<number>} Exit code.
 */
async function main([command = '', ...rest]) {
  try {
    if (command === 'micro') return await runMicro(rest);
    if (command === 'handshakes') return await runHandshakes(rest, prepareHost);
    return await compare([command, ...rest].filter((word) => word !== ''));
  } catch (error) {
    const { message, code } = /** @type {Error & {code?: string}} */ (error);
    say(message);
    if (error instanceof NotRoot) return 4;
    const isUsage = error instanceof UsageError || code?.startsWith('ERR_PARSE_ARGS');
    if (isUsage) say('See npm run bench -- --help');
    return isUsage ? 2 : 1;
  }
}

process.exitCode = await main(process.argv.slice(2));

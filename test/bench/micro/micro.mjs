/**
 * `npm run bench -- micro`: what the parts cost by themselves, one thread.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { UsageError } from '../options.mjs';
import { measureControl } from './control.mjs';
import { measureHandshake } from './handshake.mjs';
import { measureNative } from './native.mjs';

const HELP = `Examples:
  npm run bench -- micro
  npm run bench -- micro --seconds 2 --json micro.json

Measures handshake and control framing of dist/, and the parts of native/ (compiled first).

  --seconds N   time for each figure (default 0.5)
  --no-native   leave out the native parts
  --json FILE   write the figures
`;

/** @param {string[]} argv @returns {Promise<number>} Exit code. */
export async function runMicro(argv) {
  const { values } = parseArgs({
    args: argv,
    options: {
      help: { type: 'boolean' },
      seconds: { type: 'string', default: '0.5' },
      'no-native': { type: 'boolean', default: false },
      json: { type: 'string' },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const seconds = Number(values.seconds);
  if (!(seconds >= 0.05 && seconds <= 60)) throw new UsageError('--seconds: 0.05 to 60');
  const rates = [
    ...(await measureHandshake(seconds)),
    ...(await measureControl(seconds)),
    ...(values['no-native'] ? [] : measureNative(seconds)),
  ];
  const lines = rates.map(
    (r) =>
      `| ${[r.name, r.microseconds, r.slowest, r.perSecond.toLocaleString('en')].join(' | ')} |`,
  );
  const head = ['| part | µs each | slowest batch | per second |', '|---|---:|---:|---:|'];
  process.stdout.write(`${[...head, ...lines].join('\n')}\n`);
  if (values.json) writeFileSync(values.json, `${JSON.stringify(rates, null, 1)}\n`);
  return 0;
}

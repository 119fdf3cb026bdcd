/**
 * The fuzz loop: replays the corpus, then changes inputs at random for as long as it may. Inputs
 * with an outcome that was not seen before become material for others. A failure names target,
 * seed and input; the same seed and corpus give the same inputs again.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { MAX_INPUT, mutate } from './mutate.ts';
import { Random } from './random.ts';
import { bytesOf, type FuzzTarget } from './target.ts';
import { Watchdog } from './watchdog.ts';

/** Processor time one input of at most 64 KiB may take, ms. */
const MAX_CPU_MS = 1000;
/** Memory the process may take on top of what it had when the run began. */
const MAX_GROWTH = 512 * 2 ** 20;

export interface Budget {
  /** Ends after so many inputs or seconds, whichever comes first; the corpus is always replayed. */
  readonly inputs: number;
  readonly seconds: number;
  readonly seed: number;
}

export interface Report {
  readonly inputs: number;
  /** Inputs with an outcome that nothing in seeds and corpus had. */
  readonly found: readonly Uint8Array[];
  readonly outcomes: ReadonlySet<string>;
}

/** Folder of the kept corpus of a target. */
export function corpusFolder(name: string): string {
  return fileURLToPath(new URL(`corpus/${name}`, import.meta.url));
}

/** The kept inputs of a target, by name of their file. */
export function readCorpus(name: string): Map<string, Uint8Array> {
  const folder = corpusFolder(name);
  if (!existsSync(folder)) return new Map();
  const files = readdirSync(folder).sort();
  return new Map(files.map((file) => [file, Uint8Array.from(readFileSync(join(folder, file)))]));
}

/** Runs one target within the budget. Throws with a reproducible description when it fails. */
export async function fuzz(
  target: FuzzTarget,
  corpus: Iterable<Uint8Array>,
  { inputs, seconds, seed }: Budget,
): Promise<Report> {
  const watchdog = new Watchdog(target.name);
  const before = process.memoryUsage.rss();
  const random = new Random(seed);
  const words = target.words.map(bytesOf);
  const pool = [new Uint8Array(0), ...target.seeds, ...corpus];
  const outcomes = new Set<string>();
  const found: Uint8Array[] = [];
  let done = 0;
  const one = (input: Uint8Array): boolean => {
    watchdog.begin(input);
    const fresh = runOne(target, input, seed).filter((outcome) => !outcomes.has(outcome));
    done++;
    if (done % 256 === 0 && process.memoryUsage.rss() - before > MAX_GROWTH) {
      throw failure(target, input, seed, 'memory grows without bound');
    }
    for (const outcome of fresh) outcomes.add(outcome);
    return fresh.length > 0;
  };
  try {
    for (const input of pool) one(input);
    const end = performance.now() + 1000 * seconds;
    while (done < inputs && performance.now() < end) {
      const input = mutate(random, random.pick(pool), { pool, words });
      if (!one(input)) continue;
      pool.push(input);
      found.push(input);
    }
  } finally {
    await watchdog.end();
  }
  return { inputs: done, found, outcomes };
}

/** Runs one input; a slow one gets a second chance, since a machine may stumble. */
function runOne(target: FuzzTarget, input: Uint8Array, seed: number): readonly string[] {
  for (let chance = 1; ; chance++) {
    const from = process.cpuUsage();
    let outcomes: readonly string[];
    try {
      outcomes = target.run(input);
    } catch (error) {
      throw failure(target, input, seed, describe(error));
    }
    const { user, system } = process.cpuUsage(from);
    if ((user + system) / 1000 < MAX_CPU_MS) return outcomes;
    if (chance === 2) throw failure(target, input, seed, `takes more than ${MAX_CPU_MS} ms`);
  }
}

/** The error and where in the product or the target it came up. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.stack!.split('\n    at runOne ')[0]!;
}

function failure(target: FuzzTarget, input: Uint8Array, seed: number, why: string): Error {
  const shown = Buffer.from(input.subarray(0, MAX_INPUT)).toString('base64');
  return new Error(
    `fuzz ${target.name}: ${why}\nseed ${seed}, input of ${input.length} bytes in base64:\n${shown}`,
  );
}

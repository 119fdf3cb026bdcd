/**
 * The fuzz targets in TypeScript: the kept corpus and a fixed number of changed inputs, the same in
 * every run. scripts/fuzz.mjs runs this file for longer and with other seeds:
 *   CULVERT_FUZZ_TARGET (one name), CULVERT_FUZZ_SECONDS, CULVERT_FUZZ_SEED,
 *   CULVERT_FUZZ_KEEP=1 makes the corpus the shortest inputs that bring about all that was found
 */
import { createHash } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { corpusFolder, fuzz, readCorpus } from './loop.ts';
import { mutate } from './mutate.ts';
import { Random } from './random.ts';
import type { FuzzTarget } from './target.ts';
import { TARGETS } from './targets.ts';

const { CULVERT_FUZZ_TARGET, CULVERT_FUZZ_SECONDS, CULVERT_FUZZ_SEED, CULVERT_FUZZ_KEEP } =
  process.env;
const seconds = Number(CULVERT_FUZZ_SECONDS ?? 0);
const chosen = TARGETS.filter(({ name }) => (CULVERT_FUZZ_TARGET ?? name) === name);
/** Without a time: this many inputs for each target. */
const INPUTS = 400;
const LARGEST_KEPT = 4096;

/** Makes the kept corpus the shortest inputs, old and new, that bring all outcomes about. */
function keep(target: FuzzTarget, found: readonly Uint8Array[]): void {
  const seen = new Set(target.seeds.flatMap((seed) => target.run(seed)));
  const inputs = [...readCorpus(target.name).values(), ...found]
    .filter(({ length }) => length <= LARGEST_KEPT)
    .sort((a, b) => a.length - b.length);
  const folder = corpusFolder(target.name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const input of inputs) {
    const outcomes = target.run(input).filter((outcome) => !seen.has(outcome));
    if (outcomes.length === 0) continue;
    for (const outcome of outcomes) seen.add(outcome);
    writeFileSync(join(folder, createHash('sha1').update(input).digest('hex')), input);
  }
}

describe('no input breaks', () => {
  test.each(chosen.map((target) => [target.name, target] as const))(
    '%s',
    async (name, target) => {
      const seed = Number(CULVERT_FUZZ_SEED ?? 1);
      const budget =
        seconds > 0
          ? { inputs: Number.POSITIVE_INFINITY, seconds, seed }
          : { inputs: INPUTS, seconds: Number.POSITIVE_INFINITY, seed };
      const report = await fuzz(target, readCorpus(name).values(), budget);
      expect(report.outcomes.size).toBeGreaterThan(2);
      if (CULVERT_FUZZ_KEEP) keep(target, report.found);
      if (seconds > 0) {
        const { inputs, outcomes, found } = report;
        console.log(
          `${name}: ${inputs} inputs, ${outcomes.size} outcomes, ${found.length} new, seed ${seed}`,
        );
      }
    },
    1000 * seconds + 60_000,
  );
});

describe.skipIf(seconds > 0)('the fuzz loop', () => {
  const budget = { inputs: 20_000, seconds: 30, seed: 3 };
  const planted = (run: FuzzTarget['run']): FuzzTarget => ({
    ...{ name: 'planted', seeds: [Uint8Array.of(1, 2, 3)], words: ['magic'], run },
  });

  test('finds a planted defect and says how to see it again', async () => {
    const target = planted((input) => {
      const text = Buffer.from(input).toString('latin1');
      if (text.includes('magic') && text.includes('65536')) throw new Error('planted');
      return text.includes('magic') ? ['magic'] : [];
    });
    const seeds = [Uint8Array.from(Buffer.from('a 1 b'))];
    const said = await fuzz(target, seeds, budget).then(String, String);
    expect(said).toContain('fuzz planted: Error: planted');
    const input = Buffer.from(said.split('\n').at(-1)!, 'base64').toString('latin1');
    expect(input).toContain('magic');
    expect(await fuzz(target, seeds, budget).then(String, String)).toBe(said);
  });

  test('finds what takes far too long', async () => {
    const target = planted((input) => {
      const from = process.cpuUsage();
      for (let spent = 0; input.length > 20_000 && spent < 1_200_000; ) {
        const { user, system } = process.cpuUsage(from);
        spent = user + system;
      }
      return [];
    });
    await expect(fuzz(target, [new Uint8Array(30_000)], budget)).rejects.toThrow(
      'takes more than 1000 ms',
    );
  });

  test('makes the same inputs from the same seed, other ones from another', () => {
    const inputs = (seed: number) => {
      const random = new Random(seed);
      const pool = [Uint8Array.from(Buffer.from('[Interface]\nMTU = 1420\n'))];
      return Array.from({ length: 50 }, () =>
        Buffer.from(mutate(random, pool[0]!, { pool, words: [] })).toString('base64'),
      );
    };
    expect(inputs(1)).toEqual(inputs(1));
    expect(inputs(1)).not.toEqual(inputs(2));
    expect(new Set(inputs(1)).size).toBeGreaterThan(40);
  });
});

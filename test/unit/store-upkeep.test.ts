import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { openState } from '../../server/state.ts';
import { StoreUpkeep, type StoreUpkeepOptions } from '../../server/store-upkeep.ts';
import { createLogger } from '../../shared/log.ts';
import { TICK_MS } from '../../shared/session/engine.ts';

const HOUR = 3_600;
let folder: string;
let said: string[];
let done: string[];
let seconds: number;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-upkeep-${process.pid}-`));
  [said, done, seconds] = [[], [], 1_777_982_400];
});
afterEach(() => rmSync(folder, { recursive: true }));

function makeUpkeep(failing = false): StoreUpkeep {
  const note = (what: string) => () => {
    done.push(what);
    if (failing) throw new Error('disk full');
  };
  const registry = {
    expire: note('expire'),
    prune: note('prune'),
    recordSightings: note('sightings'),
  };
  const engine: StoreUpkeepOptions['engine'] = { peers: () => [] };
  const clock = { now: () => 0, wall: () => ({ seconds, nanoseconds: 0 }) };
  const log = createLogger({
    ...{ level: 'error', format: 'json', env: {} },
    stream: { write: (line) => void said.push(JSON.parse(line).err.message) },
  });
  return new StoreUpkeep({ registry, engine, stateDirectory: folder, clock, log });
}

function pass(upkeep: StoreUpkeep, time: number): void {
  for (let tick = 0; tick < (time * 1000) / TICK_MS; tick++) upkeep.tick();
}

it('does each thing at its own rate', () => {
  openState(folder).close();
  const upkeep = makeUpkeep();
  pass(upkeep, HOUR);
  const times = (what: string) => done.filter((d) => d === what).length;
  expect(['expire', 'sightings', 'prune'].map(times)).toEqual([HOUR * 2, HOUR / 10, 1]);
  const backups = () => readdirSync(join(folder, 'backups')).sort();
  expect(backups()).toEqual(['server-2026-05-05.db']);
  seconds += 86_400;
  pass(upkeep, HOUR);
  expect(backups()).toEqual(['server-2026-05-05.db', 'server-2026-05-06.db']);
  expect(said).toEqual([]);
});

it('goes on when the store fails, and says so', () => {
  const upkeep = makeUpkeep(true);
  pass(upkeep, 10);
  expect(done.at(-1)).toBe('expire');
  expect(done).toContain('sightings');
  expect(said).toEqual(done.map(() => 'disk full'));
});

/**
 * How long one call takes: batches until the time is up, the median batch counts.
 */
import { spread } from '../statistics.mjs';

const WARM_UP_SHARE = 0.2;
/** A batch lasts about this long: long against the clock's steps, short against the whole. */
const BATCH_MS = 20;

/**
 * @typedef {object} Rate
 * @property {string} name
 * @property {number} microseconds Of one call; median of the batches.
 * @property {number} perSecond
 * @property {number} slowest Microseconds per call in the slowest batch.
 */

/**
 * @template T
 * @param {string} name
 * @param {number} seconds
 * @param {(input: T) => void} call What is measured.
 * @param {(count: number) => T[]} prepare Makes the inputs of a batch; not measured.
 * @returns {Rate}
 */
export function rateOf(name, seconds, call, prepare) {
  let size = 1;
  /** @type {number[]} */
  const batches = [];
  const begin = performance.now();
  const warm = begin + seconds * 1000 * WARM_UP_SHARE;
  const end = begin + seconds * 1000;
  while (performance.now() < end || batches.length === 0) {
    const inputs = prepare(size);
    const start = performance.now();
    for (const input of inputs) call(input);
    const took = performance.now() - start;
    if (took < BATCH_MS / 2) size *= 2;
    else if (start > warm) batches.push((took * 1000) / size);
    // Slow calls: a batch may outlast the whole time.
    if (took > seconds * 1000) batches.push((took * 1000) / size);
  }
  const microseconds = spread(batches);
  if (microseconds === null) throw new Error(`${name}: nothing measured`);
  return {
    name,
    microseconds: round(microseconds.median),
    perSecond: Math.round(1e6 / microseconds.median),
    slowest: round(microseconds.max),
  };
}

/** @param {number} value */
function round(value) {
  return Math.round(value * 100) / 100;
}

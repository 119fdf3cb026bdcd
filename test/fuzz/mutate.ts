/**
 * Changes to an input: bits, bytes, pieces of itself and of other inputs, words of the language,
 * long repetitions. Knows no format; most results are malformed, many nearly right.
 */
import type { Random } from './random.ts';

/** Largest input, bytes. */
export const MAX_INPUT = 65_536;

export interface Material {
  /** Other inputs to take pieces from. */
  readonly pool: readonly Uint8Array[];
  /** What the format is made of. */
  readonly words: readonly Uint8Array[];
}

/** An input made of `input` by one to eight changes; `input` stays as it is. */
export function mutate(random: Random, input: Uint8Array, material: Material): Uint8Array {
  let out: Uint8Array = Uint8Array.from(input);
  for (let changes = 1 << random.below(4); changes > 0; changes--) {
    out = random.pick(CHANGES)(random, out, material);
  }
  return out.length > MAX_INPUT ? out.slice(0, MAX_INPUT) : out;
}

type Change = (random: Random, input: Uint8Array, material: Material) => Uint8Array;

/** Where text breaks and what numbers break on. */
const EDGES = [0x00, 0x09, 0x0a, 0x0d, 0x20, 0x22, 0x23, 0x2c, 0x2d, 0x2f, 0x3a, 0x3d, 0x5b, 0x7f];
const HIGH = [0x80, 0xc0, 0xfe, 0xff];
/** Kinds of blank and line end that text functions disagree on, and a broken sequence. */
const ODD_TEXT = [
  '\ufeff',
  '\u2028',
  '\u0085',
  '\u00a0',
  '\r',
  '\ud83d\ude00',
  '__proto__',
  '\\u0000',
];
const NUMBERS = [
  '0',
  '-1',
  '255',
  '256',
  '65535',
  '65536',
  '4294967296',
  '1e9',
  '0x10',
  '08',
  '9'.repeat(20),
];

const CHANGES: readonly Change[] = [
  (random, input) => set(random, input, (byte) => byte ^ (1 << random.below(8))),
  (random, input) => set(random, input, () => random.next()),
  (random, input) => set(random, input, () => random.pick([...EDGES, ...HIGH])),
  (random, input) => splice(random, input, random.below(1 + input.length / 4), EMPTY),
  (random, input) => splice(random, input, 0, Uint8Array.of(random.pick([...EDGES, ...HIGH]))),
  (random, input, { words }) => splice(random, input, 0, random.pick([...words, EMPTY])),
  (random, input, { words }) =>
    splice(random, input, random.below(16), random.pick([...words, EMPTY])),
  (random, input, { pool }) =>
    splice(random, input, random.below(32), piece(random, random.pick(pool))),
  (random, input) => splice(random, input, 0, piece(random, input)),
  (random, input) => splice(random, input, 0, encode(random.pick(ODD_TEXT))),
  (random, input) => replaceNumber(random, input),
  (random, input) => repeat(random, input),
  (random, input) => input.slice(0, random.below(input.length + 1)),
];

const EMPTY = new Uint8Array(0);

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function set(random: Random, input: Uint8Array, to: (byte: number) => number): Uint8Array {
  if (input.length === 0) return input;
  const at = random.below(input.length);
  input[at] = to(input[at]!);
  return input;
}

/** Puts `insert` at some place, in the stead of `removed` bytes. */
function splice(random: Random, input: Uint8Array, removed: number, insert: Uint8Array) {
  const at = random.below(input.length + 1);
  const rest = input.subarray(Math.min(input.length, at + Math.floor(removed)));
  const out = new Uint8Array(at + insert.length + rest.length);
  out.set(input.subarray(0, at));
  out.set(insert, at);
  out.set(rest, at + insert.length);
  return out;
}

function piece(random: Random, from: Uint8Array): Uint8Array {
  const at = random.below(from.length + 1);
  return from.slice(at, at + 1 + random.below(Math.min(256, from.length + 1)));
}

/** Another number in the place of one that is there. */
function replaceNumber(random: Random, input: Uint8Array): Uint8Array {
  const text = Buffer.from(input).toString('latin1');
  const numbers = [...text.matchAll(/\d+/g)];
  if (numbers.length === 0) return input;
  const { index, 0: found } = random.pick(numbers);
  const changed = text.slice(0, index) + random.pick(NUMBERS) + text.slice(index + found.length);
  return Uint8Array.from(Buffer.from(changed, 'latin1'));
}

/** A piece many times over: what is quadratic or recursive shows in long repetitions only. */
function repeat(random: Random, input: Uint8Array): Uint8Array {
  const long = random.below(64) === 0;
  const edge = Uint8Array.of(random.pick(EDGES));
  const unit = long && random.below(2) === 0 ? edge : piece(random, input).subarray(0, 32);
  if (unit.length === 0) return input;
  const times = long ? Math.floor(MAX_INPUT / 2 / unit.length) : 2 + random.below(30);
  const block = new Uint8Array(unit.length * times);
  for (let i = 0; i < times; i++) block.set(unit, i * unit.length);
  return splice(random, input, 0, block);
}

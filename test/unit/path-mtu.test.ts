/** The search for the largest packet that arrives, in virtual time over a path of a known size. */
import { expect, test } from 'vitest';
import { PathMtu } from '../../client/path-mtu.ts';

/** A path that carries `carries` bytes there and back in `trip` ms; 0: nobody answers. */
class Way {
  now = 0;
  carries: number;
  trip = 40;
  /** Probes of so many bytes and more wait so long, besides. */
  slowFrom = Number.POSITIVE_INFINITY;
  queue = 0;
  readonly sizes: number[] = [];
  readonly found: number[] = [];
  /** What the server was told last. */
  told = 0;
  readonly mtu = new PathMtu({
    probe: (size, mtu) => {
      this.sizes.push(size);
      const queued = size >= this.slowFrom ? this.queue : 0;
      const at = this.now + this.trip + queued;
      if (size <= this.carries) this.#coming.push([at, this.sizes.length]);
      if (size <= this.carries) this.told = mtu;
      return this.sizes.length;
    },
    onFound: (mtu) => this.found.push(mtu),
  });
  #coming: [at: number, id: number][] = [];

  constructor(carries: number) {
    this.carries = carries;
  }

  wait(ms: number): this {
    for (const end = this.now + ms; this.now < end; ) {
      this.now += 10;
      const due = this.#coming.filter(([at]) => at <= this.now);
      this.#coming = this.#coming.filter(([at]) => at > this.now);
      for (const [, id] of due) this.mtu.answered(id, this.now);
      if (this.now % 250 === 0) this.mtu.tick(this.now);
    }
    return this;
  }
}

test('a path that carries the wish costs two probes', () => {
  const way = new Way(9_000);
  way.mtu.start(8_920, 0);
  way.wait(10_000);
  expect([way.sizes, way.found]).toEqual([[0, 8_920], [8_920]]);
});

test.each([1_300, 1_339, 1_388, 1_412, 1_419])('a hole above %i bytes is found', (carries) => {
  const way = new Way(carries);
  way.mtu.start(1_420, 0);
  way.wait(15_000);
  const [safe, best] = way.found;
  expect([way.found.length, safe]).toEqual([2, 1_280]);
  expect(best).toBeLessThanOrEqual(carries);
  expect(carries - best!).toBeLessThan(8);
  expect(way.told).toBe(best);
});

test.each([600, 1_200, 1_279])('a hole above %i bytes is found, too', (carries) => {
  const way = new Way(carries);
  way.mtu.start(1_420, 0);
  way.wait(20_000);
  const [safe, best] = way.found;
  expect([way.found.length, safe]).toEqual([2, 576]);
  expect(best).toBeLessThanOrEqual(carries);
  expect(carries - best!).toBeLessThan(8);
});

test.each([
  [20, 1_000],
  [90, 1_250],
])('over a hole, %i ms away, a size that arrives is in use within %i ms', (trip, within) => {
  const way = new Way(1_339);
  way.trip = trip;
  way.mtu.start(1_420, 0);
  expect(way.wait(within).found).toEqual([1_280]);
  expect(way.wait(5_000).found).toEqual([1_280, 1_336]);
});

test('what is in use and arrives stays in use while a larger one is looked for', () => {
  const way = new Way(1_339);
  way.mtu.start(1_420, 0);
  way.wait(5_000);
  // Over a new way of the same size, and every ten minutes.
  way.mtu.start(1_420, way.now);
  way.wait(700_000);
  expect(way.found).toEqual([1_280, 1_336]);
  way.carries = 1_310;
  way.mtu.start(1_420, way.now);
  expect(way.wait(5_000).found).toEqual([1_280, 1_336, 1_280, 1_304]);
});

test.each([
  [1_281, 1_200],
  [1_281, 3_000],
  [1, 900],
  [1, 1_800],
])('from %i bytes on, answers %i ms too late still count', (slowFrom, queue) => {
  const way = new Way(1_500);
  way.slowFrom = slowFrom;
  way.queue = queue;
  way.mtu.start(1_420, 0);
  way.wait(10_000);
  expect(way.found.slice(-1)).toEqual([1_420]);
});

test('sizes whose answers come late are searched on from', () => {
  const way = new Way(1_400);
  way.slowFrom = 1_345;
  way.queue = 600;
  way.mtu.start(1_420, 0);
  way.wait(15_000);
  expect(way.found.at(-1)).toBeGreaterThan(1_392);
  expect(way.found.at(-1)).toBeLessThanOrEqual(1_400);
});

test('a second answer to the same size is no news', () => {
  const way = new Way(1_400);
  way.slowFrom = 1_281;
  way.queue = 300;
  way.mtu.start(1_420, 0);
  way.wait(15_000);
  expect(way.found).toEqual([1_280, 1_400]);
  const middles = way.sizes.filter((size) => size > 1_280 && size < 1_420);
  expect(middles).toEqual([1_352, 1_352, 1_392, 1_408, 1_408, 1_400, 1_400]);
});

test('an outage in the search is not taken for a hole', () => {
  const way = new Way(1_500);
  way.mtu.start(1_420, 0);
  way.wait(50);
  way.carries = -1;
  way.wait(20_000);
  way.carries = 1_500;
  way.wait(60_000);
  expect(way.found).toEqual([1_420]);
});

test('jumbo frames that end somewhere: found in half a minute', () => {
  const way = new Way(4_400);
  way.mtu.start(8_920, 0);
  way.wait(30_000);
  expect(way.found.at(-1)).toBeGreaterThan(4_392);
});

test('never below 576, whatever the path swallows', () => {
  const way = new Way(500);
  way.mtu.start(1_420, 0);
  expect(way.wait(20_000).found).toEqual([576]);
  expect(way.told).toBe(576);
});

test('a server that knows no probes is left in peace, and the MTU as it is', () => {
  const way = new Way(-1);
  way.mtu.start(1_420, 0);
  way.wait(59_000);
  expect([way.sizes, way.found]).toEqual([[0, 0, 0], []]);
});

test('a slow path is not taken for a hole', () => {
  const way = new Way(1_500);
  way.trip = 1_200;
  way.mtu.start(1_420, 0);
  expect(way.wait(20_000).found).toEqual([1_420]);
});

test('when the first small probes are lost the size is asked for a minute later', () => {
  const way = new Way(-1);
  way.mtu.start(1_420, 0);
  way.wait(5_000);
  way.carries = 1_500;
  expect(way.wait(60_000).found).toEqual([1_420]);
});

test('a hole that opens later is noticed when the session is renewed', () => {
  const way = new Way(1_500);
  way.mtu.confirm(0);
  expect(way.sizes).toEqual([]);
  way.mtu.start(1_420, 0);
  way.wait(5_000);
  way.carries = 1_352;
  way.mtu.confirm(way.now);
  way.wait(1_000);
  // In a search it goes on as it is.
  way.mtu.confirm(way.now);
  expect(way.wait(5_000).found).toEqual([1_420, 1_280, 1_352]);
  expect(way.told).toBe(1_352);
});

test('a hole that opens later is noticed by asking once a minute, and so is its end', () => {
  const way = new Way(1_500);
  way.mtu.start(1_420, 0);
  way.wait(30_000);
  way.carries = 1_352;
  way.wait(60_000);
  expect(way.found).toEqual([1_420, 1_280, 1_352]);
  way.carries = 1_500;
  way.wait(660_000);
  expect(way.found).toEqual([1_420, 1_280, 1_352, 1_420]);
});

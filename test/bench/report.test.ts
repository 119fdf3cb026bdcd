/**
 * What the benchmark makes of its figures: medians, ratios in the same round, targets, options.
 */
import { describe, expect, it } from 'vitest';

/** The benchmark is plain JavaScript with types in comments; imported by name to stay out of tsc. */
const load = (file: string) => import(new URL(file, import.meta.url).href);
const { spread, percentile } = await load('./statistics.mjs');
const { ANY_LOAD, ratio } = await load('./results.mjs');
const { judge } = await load('./targets.mjs');
const { toMarkdown } = await load('./markdown.mjs');
const { toSvg } = await load('./chart.mjs');
const { parseOptions } = await load('./options.mjs');

const run = (round: number, tunnel: string, gbps: number) => ({
  round,
  veth: 'plain',
  tunnel,
  facts: { mtu: 1420 },
  figures: { up: { gbps } },
  memoryMb: { up: [40, 30, 30] },
  errors: {},
});

const results = (runs: unknown[]) => ({
  format: 1,
  takenAt: '2026-01-02T03:04:05.000Z',
  machine: { cpu: 'CPU', cores: 2, cpuFlags: [], kernel: '6', system: 'Debian', loadBefore: 0 },
  versions: { node: 'v20' },
  settings: { rounds: 1, seconds: 1, pings: 1, quick: true },
  runs,
});

describe('statistics', () => {
  it('takes the median of odd and even counts with both extremes', () => {
    expect(spread([3, 1, 2])).toEqual({ median: 2, min: 1, max: 3, count: 3 });
    expect(spread([4, 1, null, 2, 3])).toEqual({ median: 2.5, min: 1, max: 4, count: 4 });
    expect(spread([null, undefined])).toBeNull();
  });

  it('takes percentiles as the measuring stick does', () => {
    const sorted = Array.from({ length: 200 }, (_, i) => i);
    expect(percentile(sorted, 0.5)).toBe(100);
    expect(percentile(sorted, 0.99)).toBe(198);
    expect(percentile([], 0.5)).toBeNull();
  });
});

describe('ratios', () => {
  it('divides within a round, not median by median', () => {
    const all = results([
      run(1, 'culvert', 6),
      run(1, 'wireguard-go', 2),
      run(2, 'culvert', 3),
      run(2, 'wireguard-go', 1.5),
      run(3, 'culvert', 9),
    ]);
    const found = ratio(all, 'culvert', 'wireguard-go', 'plain', 'up', 'gbps');
    expect(found).toEqual({ median: 2.5, min: 2, max: 3, count: 2 });
    expect(ratio(all, 'culvert', 'openvpn', 'plain', 'up', 'gbps')).toBeNull();
  });
});

describe('memory under load', () => {
  it('is the most of one process over all scenarios, idle left out', () => {
    const memoryMb = {
      idle: [90, 90, 90],
      ping: [80, 80, 80],
      up: [40, 30, 31],
      small: [60, 20, 21],
    };
    const other = { idle: [10, 10, 10], up: [100, 50, 50], small: [240, 120, 120] };
    const all = results([
      { ...run(1, 'culvert', 1), memoryMb },
      { ...run(1, 'wireguard-go', 1), memoryMb: other },
    ]);
    const of = (figure: string) =>
      ratio(all, 'culvert', 'wireguard-go', 'plain', ANY_LOAD, figure).median;
    expect(of('serverMemoryMb')).toBe(60 / 240);
    expect(of('clientMemoryMb')).toBe(30 / 120);
    expect(toMarkdown(all)).toContain('| memory of the server under any load, MB | 60.0 | 240 |');
  });
});

describe('targets', () => {
  const verdict = (ours: number) =>
    judge(results([run(1, 'culvert', ours), run(1, 'wireguard-go', 2)])).find(
      (t: { scenario: string; figure: string; theirs: string }) =>
        t.scenario === 'up' && t.figure === 'gbps' && t.theirs === 'wireguard-go',
    );

  it('are met from the limit on and missed below it', () => {
    expect(verdict(5).met).toBe(true);
    expect(verdict(4.9).met).toBe(false);
  });

  it('are neither met nor missed when nothing was measured', () => {
    const open = judge(results([]));
    expect(open.length).toBeGreaterThan(20);
    for (const target of open) expect(target.met).toBeNull();
  });
});

describe('the report', () => {
  const all = results([run(1, 'culvert', 5), run(1, 'wireguard-go', 2)]);

  it('shows figures, ratio and verdict as tables', () => {
    const text = toMarkdown(all);
    expect(text).toContain('| scenario | culvert | wireguard-go |');
    expect(text).toMatch(/`up` .* \| 5\.00 \| 2\.00 \|/);
    expect(text).toContain('| up | wireguard-go | ≥ 2.5 | 2.50 | yes |');
    expect(text).not.toContain('Busy');
  });

  it('names what could not be measured', () => {
    const failed = { ...run(1, 'openvpn', 1), figures: {}, errors: { start: 'no such file' } };
    expect(toMarkdown(results([failed]))).toContain('openvpn, start: no such file');
  });

  it('draws one bar for each tunnel, longest for the largest figure', () => {
    const widths = [...toSvg(all).matchAll(/<rect class="(?:ours|other)" .*? width="([\d.]+)"/g)];
    const [ours, other] = widths.map((match) => Number(match[1]));
    expect(ours! / other!).toBeCloseTo(2.5, 1);
  });
});

describe('options', () => {
  it('has a short run and a full one', () => {
    expect(parseOptions(['--quick'])).toMatchObject({ rounds: 1, seconds: 2, veths: ['plain'] });
    expect(parseOptions([])).toMatchObject({ rounds: 3, seconds: 6, veths: ['plain', 'split'] });
  });

  it('refuses what it does not know', () => {
    expect(() => parseOptions(['--impl', 'ipsec'])).toThrow('"ipsec" is not known');
    expect(() => parseOptions(['--rounds', 'many'])).toThrow('not a number');
    expect(() => parseOptions(['--speed'])).toThrow();
  });
});

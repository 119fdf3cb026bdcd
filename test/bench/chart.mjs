/**
 * The report as a picture: one panel of bars for each scenario, the spread as a line on the bar.
 * Plain SVG; colours follow the reader's light or dark setting.
 */
import { ANY_LOAD, summary, tunnelsOf, vethsOf } from './results.mjs';
import { SCENARIOS } from './scenarios.mjs';
import { format } from './statistics.mjs';

const PANEL_WIDTH = 420;
const COLUMNS = 2;
const LABEL_WIDTH = 120;
const VALUE_WIDTH = 60;
const BAR_HEIGHT = 16;
const ROW_HEIGHT = 22;
const TITLE_HEIGHT = 44;
const GAP = 28;
const MARGIN = 24;

/** Panels beside the main figures. @type {readonly {scenario: string, figure: string, title: string, unit: string}[]} */
const FURTHER = [
  {
    scenario: 'up',
    figure: 'cpuSecondsPerGb',
    title: 'CPU of all three processes, up',
    unit: 's/GB',
  },
  { scenario: ANY_LOAD, figure: 'serverMemoryMb', title: 'Memory of the server', unit: 'MB' },
];

const STYLE = `
  .page { fill: #ffffff } text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 14px } .note, .value { fill: #59636e; font-size: 12px }
  .base { stroke: #d1d9e0 } .spread { stroke: #1f2328; stroke-width: 1.5 }
  .raw { fill: #b6bfc9 } .ours { fill: #0969da } .ours2 { fill: #54aeff } .other { fill: #bf8700 } .other2 { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } text { fill: #f0f6fc } .note, .value { fill: #9198a1 }
    .base { stroke: #3d444d } .spread { stroke: #f0f6fc }
    .raw { fill: #656c76 } .ours { fill: #388bfd } .ours2 { fill: #79c0ff } .other { fill: #d29922 } .other2 { fill: #db6d28 }
  }`;

/** @type {Record<string, string>} */
const CLASSES = {
  raw: 'raw',
  culvert: 'ours',
  'culvert-openssl': 'ours2',
  'wireguard-go': 'other',
};

/** @param {import('./results.mjs').Results} results @returns {string} */
export function toSvg(results) {
  const tunnels = tunnelsOf(results);
  const panels = vethsOf(results).flatMap((veth) =>
    [
      ...SCENARIOS.map((s) => ({
        scenario: s.name,
        figure: s.figure,
        title: s.title,
        unit: s.unit,
      })),
      ...FURTHER,
    ]
      .map((panel) => ({
        title: `${panel.title}${veth === 'split' ? ', split' : ''}`,
        unit: panel.unit,
        better: /^(gbps|kpps)$/.test(panel.figure) ? 'more is better' : 'less is better',
        bars: tunnels.map((tunnel) => ({
          tunnel,
          figure: summary(results, tunnel, veth, panel.scenario, panel.figure),
        })),
      }))
      .filter((panel) => panel.bars.some((bar) => bar.figure !== null)),
  );
  const panelHeight = TITLE_HEIGHT + tunnels.length * ROW_HEIGHT;
  const rows = Math.ceil(panels.length / COLUMNS);
  const width = 2 * MARGIN + COLUMNS * PANEL_WIDTH + (COLUMNS - 1) * GAP;
  const height = 2 * MARGIN + rows * (panelHeight + GAP) - GAP;
  const body = panels.map((panel, i) => {
    const x = MARGIN + (i % COLUMNS) * (PANEL_WIDTH + GAP);
    const y = MARGIN + Math.floor(i / COLUMNS) * (panelHeight + GAP);
    return `<g transform="translate(${x} ${y})">\n${draw(panel)}\n</g>`;
  });
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    '<title>Culvert beside other tunnels</title>',
    `<style>${STYLE}\n</style>`,
    `<rect class="page" width="${width}" height="${height}"/>`,
    ...body,
    '</svg>',
  ].join('\n')}\n`;
}

/**
 * @param {{title: string, unit: string, better: string, bars: {tunnel: string, figure: import('./statistics.mjs').Spread | null}[]}} panel
 */
function draw({ title, unit, better, bars }) {
  const most = Math.max(...bars.map((bar) => bar.figure?.max ?? 0));
  const room = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH;
  const scale = most > 0 ? room / most : 0;
  const bottom = TITLE_HEIGHT + bars.length * ROW_HEIGHT - (ROW_HEIGHT - BAR_HEIGHT);
  const lines = [
    `<text class="title" y="12">${escapeXml(title)}</text>`,
    `<text class="note" y="30">${escapeXml(unit)}, ${better}</text>`,
    `<line class="base" x1="${LABEL_WIDTH}" x2="${LABEL_WIDTH}" y1="${TITLE_HEIGHT}" y2="${bottom}"/>`,
  ];
  bars.forEach(({ tunnel, figure }, i) => {
    const y = TITLE_HEIGHT + i * ROW_HEIGHT;
    const middle = y + BAR_HEIGHT / 2;
    const name = tunnel === 'raw' ? 'no tunnel' : tunnel;
    lines.push(
      `<text x="${LABEL_WIDTH - 8}" y="${middle + 4}" text-anchor="end">${escapeXml(name)}</text>`,
    );
    if (figure === null) {
      lines.push(`<text class="value" x="${LABEL_WIDTH + 8}" y="${middle + 4}">–</text>`);
      return;
    }
    const [from, to, end] = [figure.min, figure.max, figure.median].map((v) => round(v * scale));
    const css = CLASSES[tunnel] ?? 'other2';
    const bar = `x="${LABEL_WIDTH}" y="${y}" width="${end}" height="${BAR_HEIGHT}"`;
    lines.push(`<rect class="${css}" ${bar} rx="2"/>`);
    if (figure.count > 1) {
      const ends = `x1="${LABEL_WIDTH + (from ?? 0)}" x2="${LABEL_WIDTH + (to ?? 0)}"`;
      lines.push(`<line class="spread" ${ends} y1="${middle}" y2="${middle}"/>`);
    }
    const after = LABEL_WIDTH + Math.max(end ?? 0, to ?? 0) + 6;
    lines.push(
      `<text class="value" x="${after}" y="${middle + 4}">${format(figure.median)}</text>`,
    );
  });
  return lines.join('\n');
}

/** @param {number} value */
function round(value) {
  return Math.round(value * 10) / 10;
}

/** @param {string} text */
function escapeXml(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}

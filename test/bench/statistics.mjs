/**
 * Medians, percentiles and spread of repeated figures. Pure.
 */

/**
 * @typedef {object} Spread
 * @property {number} median
 * @property {number} min
 * @property {number} max
 * @property {number} count
 */

/**
 * Median (mean of the middle two when even) with the extremes; null when there is no figure.
 * @param {readonly (number | null | undefined)[]} figures
 * @returns {Spread | null}
 */
export function spread(figures) {
  /** @type {number[]} */
  const sorted = [];
  for (const figure of figures) if (typeof figure === 'number') sorted.push(figure);
  sorted.sort((a, b) => a - b);
  if (sorted.length === 0) return null;
  const at = (/** @type {number} */ index) => /** @type {number} */ (sorted[index]);
  const median = (at((sorted.length - 1) >> 1) + at(sorted.length >> 1)) / 2;
  return { median, min: at(0), max: at(sorted.length - 1), count: sorted.length };
}

/**
 * The value below which `share` of ascending figures lie; null when there is none.
 * @param {readonly number[]} sorted @param {number} share 0 .. 1
 */
export function percentile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? null;
}

/** At most three significant digits below 100, none after the point above. @param {number} value */
export function format(value) {
  if (value >= 100) return value.toFixed(0);
  if (value >= 10) return value.toFixed(1);
  return value.toFixed(2);
}

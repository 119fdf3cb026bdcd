/** Dates until which a peer is let in: text to Unix seconds and back. Pure. */

/** Longest time that can be asked for, seconds: a hundred years. */
const FAR = 100 * 366 * 86_400;
const UNITS: Readonly<Record<string, number>> = { m: 60, h: 3600, d: 86_400 };

/**
 * Reads `2027-03-31` (the end of that day, UTC), an RFC 3339 time, or a time from `now` on such as
 * `12h` or `30d`. null for anything else. `now`: Unix seconds.
 */
export function parseExpiry(text: string, now: number): number | null {
  const relative = /^(\d{1,6})([mhd])$/.exec(text);
  if (relative !== null) {
    const seconds = Number(relative[1]) * UNITS[relative[2]!]!;
    return seconds > 0 && seconds <= FAR ? now + seconds : null;
  }
  const isDay = /^\d{4}-\d{2}-\d{2}$/.test(text);
  const isTime = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?(Z|[+-]\d{2}:\d{2})$/.test(text);
  if (!isDay && !isTime) return null;
  const parsed = Date.parse(isDay ? `${text}T00:00:00Z` : text);
  // 2027-02-30 reads as a day in March.
  if (Number.isNaN(parsed) || (isDay && !new Date(parsed).toISOString().startsWith(text))) {
    return null;
  }
  return Math.floor(parsed / 1000) + (isDay ? UNITS.d! : 0);
}

/** RFC 3339, UTC, whole seconds. */
export function timeText(seconds: number): string {
  return new Date(seconds * 1000).toISOString().replace('.000Z', 'Z');
}

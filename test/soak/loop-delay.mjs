// Loaded into vpn-server by NODE_OPTIONS: appends one line every five seconds to the file that
// CULVERT_LOOP_DELAY names: by how many milliseconds turns of its event loop came late.
import { appendFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';

const file = process.env.CULVERT_LOOP_DELAY;
const RESOLUTION_MS = 5;

if (file !== undefined && process.argv[2] === 'start') {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  delay.enable();
  setInterval(() => {
    // The histogram holds the time between two timers, which includes the timer's own.
    const late = (ns) => Math.round(Math.max(0, ns / 1e6 - RESOLUTION_MS) * 10) / 10;
    const line = { p50: late(delay.percentile(50)), p99: late(delay.percentile(99)) };
    appendFileSync(file, `${JSON.stringify({ ...line, max: late(delay.max) })}\n`);
    delay.reset();
  }, 5_000).unref();
}

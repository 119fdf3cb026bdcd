// Child processes of the scripts: run quietly, show everything when something fails.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** Root of the checkout. */
export const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** Path below the checkout. */
export function inRoot(path) {
  return fileURLToPath(new URL(`../${path}`, import.meta.url));
}

/**
 * Runs a command in the checkout. `loud` passes its output through, otherwise it is collected.
 * Resolves to {code, output}, both streams in order; code is 127 when the file cannot be started.
 */
export function run(file, args, { loud = false, env = {} } = {}) {
  return new Promise((resolve) => {
    const child = spawn(file, args, {
      cwd: ROOT,
      env: { ...process.env, ...env },
      stdio: ['ignore', loud ? 'inherit' : 'pipe', loud ? 'inherit' : 'pipe'],
    });
    let output = '';
    child.stdout?.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
    child.stderr?.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
    child.once('error', (error) => resolve({ code: 127, output: `${output}${error.message}\n` }));
    child.once('close', (code, signal) => resolve({ code: code ?? 1, output, signal }));
  });
}

/** As `run`, but throws with the whole output when the command fails. */
export async function must(file, args, options) {
  const result = await run(file, args, options);
  if (result.code === 0) return result.output;
  throw new Error(`${file} ${args.join(' ')}: exit ${result.code}\n${result.output}`);
}

/** Seconds since `from` (ms of performance.now()), as `12.3 s`. */
export function since(from) {
  return `${((performance.now() - from) / 1000).toFixed(1)} s`;
}

/** Node's debugger, which the programs do not open on demand. */

/**
 * SIGUSR1 makes node listen on a port of 127.0.0.1, where every user of the host could run code as
 * this process. From now on it does nothing.
 */
export function forbidDebugger(): void {
  process.on('SIGUSR1', () => {});
}

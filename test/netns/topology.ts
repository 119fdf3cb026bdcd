/** The network most tests use: every other host has its own wire to the server. */
import type { Net } from './harness.ts';

/** Outer address of the server as `leg` n (1, 2, ...) sees it. */
export function serverAddress(leg: number): string {
  return `10.77.${leg}.1`;
}

/** Outer address of the host at `leg` n. */
export function legAddress(leg: number): string {
  return `10.77.${leg}.2`;
}

/**
 * Lays `server s1 ---- eth0 LEG1`, `server s2 ---- eth0 LEG2`, ...: outer network n is
 * 10.77.n.0/24, the server has .1, the leg .2 and its default route through the server.
 */
export function layStar(net: Net, legs: readonly string[]): void {
  legs.forEach((host, at) => {
    const leg = at + 1;
    net.wire(
      { host: 'server', device: `s${leg}`, addresses: [`${serverAddress(leg)}/24`] },
      { host, device: 'eth0', addresses: [`${legAddress(leg)}/24`] },
    );
    net.ip(host, 'route', 'add', 'default', 'via', serverAddress(leg));
  });
  net.remember();
}

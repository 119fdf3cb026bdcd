/**
 * "Connected, but no internet": the links of the chain in the order in which to mend them, each
 * with what to type. Pure: judges facts that nat.ts gathered.
 */
import type { NatSettings, NatStatus } from './nat.ts';

export interface Check {
  readonly name: 'way out' | 'forwarding' | 'nat' | 'firewall';
  readonly ok: boolean;
  readonly message: string;
  /** Commands or settings that mend it; empty when it is well. */
  readonly fix: readonly string[];
}

export interface HostFacts {
  readonly settings: NatSettings;
  readonly status: NatStatus;
  /** Settings that should be on and are not, as `sysctl` calls them. */
  readonly notForwarding: readonly string[];
}

export function checkHost(facts: HostFacts): Check[] {
  return [wayOut(facts), forwarding(facts), nat(facts), firewall(facts)];
}

function wayOut({ settings, status }: HostFacts): Check {
  const name = 'way out';
  const { ipv4, ipv6 } = status.outside;
  if (settings.nat === 'off') return well(name, 'not asked for: nat is off');
  if (ipv4 !== null || ipv6 !== null) {
    const ways = [
      ipv4 === null ? [] : [`IPv4 by ${ipv4}`],
      ipv6 === null ? [] : [`IPv6 by ${ipv6}`],
    ];
    return well(name, ways.flat().join(', '));
  }
  const fix = ['ip route add default via GATEWAY'];
  return { name, ok: false, message: 'this host has no default route', fix };
}

function forwarding({ notForwarding }: HostFacts): Check {
  const name = 'forwarding';
  if (notForwarding.length === 0) return well(name, 'on where it is needed');
  const message = `off: ${notForwarding.join(', ')}`;
  return { name, ok: false, message, fix: notForwarding.map((key) => `sysctl -w ${key}=1`) };
}

function nat({ settings, status }: HostFacts): Check {
  const name = 'nat';
  if (status.state === 'failed') {
    return { name, ok: false, message: status.reason ?? 'failed', fix: [] };
  }
  if (status.state === 'on') return well(name, `on for ${settings.networks.join(', ')}`);
  return well(name, 'off: routers beyond this host must know the way to the tunnel network');
}

function firewall({ status }: HostFacts): Check {
  const name = 'firewall';
  const { obstacles } = status;
  if (obstacles.length === 0) return well(name, 'no foreign rule stops packets of clients');
  const message = `stops packets of clients: ${obstacles.map(({ where }) => where).join('; ')}`;
  return { name, ok: false, message, fix: obstacles.flatMap(({ fix }) => fix) };
}

function well(name: Check['name'], message: string): Check {
  return { name, ok: true, message, fix: [] };
}

/** For people: a line for each check, and what to type below those that fail. */
export function checksText(checks: readonly Check[]): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  return checks
    .flatMap(({ name, ok, message, fix }) => [
      `${ok ? 'ok  ' : 'FAIL'}  ${name.padEnd(width)}  ${message}`,
      ...fix.map((command) => `      ${' '.repeat(width)}  fix: ${command}`),
    ])
    .join('\n');
}

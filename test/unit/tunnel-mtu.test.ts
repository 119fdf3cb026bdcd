/** The MTU of a tunnel over a link that carries little. What probes find is path-mtu.test.ts. */
import { expect, test } from 'vitest';
import { TunnelMtu } from '../../client/tunnel-mtu.ts';
import type { Logger } from '../../shared/log.ts';
import type { Run } from '../../shared/system/run.ts';

const ANSWERS = {
  route: [{ dst: '10.0.0.1', dev: 'eth0' }],
  address: [{ ifindex: 2, ifname: 'eth0', mtu: 1300, flags: ['UP'], addr_info: [] }],
};

test.each([
  ['is said where the tunnel has IPv6', ['192.168.1.2/24', 'fd00::2/64'], 1280, 1],
  ['is no news where it has none', ['192.168.1.2/24'], 1240, 0],
])('that a way is too small for IPv6 %s', async (_what, addresses, mtu, said) => {
  const warnings: string[] = [];
  const log = { info: () => {}, warn: (text: string) => warnings.push(text) };
  const run = async (_file: string, args: readonly string[]) => {
    const rows = args.includes('route') ? ANSWERS.route : ANSWERS.address;
    return { stdout: JSON.stringify(rows), stderr: '' };
  };
  const tunnel = new TunnelMtu({
    run: run as unknown as Run,
    log: log as unknown as Logger,
    mark: () => 0,
    now: () => 0,
    probe: () => null,
    onChange: () => {},
  });
  const network = { addresses, mtu: 1420, routes: [], serverAddress: null };
  await tunnel.start(network, '10.0.0.1', true);
  expect(tunnel.of(network).mtu).toBe(mtu);
  expect(warnings).toHaveLength(said);
});

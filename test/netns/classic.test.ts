/**
 * The classic picture of a tun tunnel (docs/HOW-IT-WORKS.md):
 *
 *   host 172.16.1.11                                 host 172.16.1.12
 *   application 192.168.1.11:5000                    application 192.168.1.12:5000
 *   tun 192.168.1.11                                 tun 192.168.1.12
 *   vpn-client, UDP port 6000                        vpn-server, UDP port 6000
 *   left eth0 172.16.1.11/24 ----------------------- eth0 172.16.1.12/24 right
 */
import { expect, test } from 'vitest';
import type { Frame } from './capture.ts';
import { inNet } from './harness.ts';
import { startEcho, talk } from './traffic.ts';
import { Client, Server } from './vpn.ts';

const MARKER = 'plain text of the application, 0123456789';
const ARP = 0x0806;
const IPV4 = 0x0800;

/** `SOURCE:PORT > DESTINATION:PORT` of every IPv4 frame, once each. */
function conversations(frames: readonly Frame[]): string[] {
  const seen = new Set<string>();
  for (const { etherType, datagram: d } of frames) {
    if (etherType !== IPV4) continue;
    seen.add(d ? `${d.source}:${d.sourcePort} > ${d.destination}:${d.destinationPort}` : 'not UDP');
  }
  return [...seen].sort();
}

test('applications on 192.168.1.x:5000 talk; the wire carries sealed datagrams of port 6000', async () => {
  await inNet(['left', 'right'], async (net) => {
    for (const host of ['left', 'right']) {
      net.sysctl(host, 'net.ipv6.conf.default.disable_ipv6=1');
    }
    net.wire(
      { host: 'left', device: 'eth0', addresses: ['172.16.1.11/24'] },
      { host: 'right', device: 'eth0', addresses: ['172.16.1.12/24'] },
    );
    net.remember();
    const wire = await net.capture('right', 'eth0');
    const server = await new Server(net, 'right').start('--address', '192.168.1.12');
    const endpoint = ['--endpoint', '172.16.1.12:6000', '--address', '192.168.1.11'];
    const { invite } = await server.json<{ invite: string }>('invite', 'left', ...endpoint);
    const client = new Client(net, 'left');
    expect(await client.enrol(invite, '--local-port', '6000')).toBe('192.168.1.11');

    const device = client.device()?.name ?? '';
    const inside = await net.capture('left', device);
    await startEcho(net, 'right', '192.168.1.12', 5000);
    const said = await talk(net, 'left', '192.168.1.11', '192.168.1.12', MARKER, 5000);
    expect(said).toEqual({ udp: true, tcp: true });

    // The capture finds the text where it is in clear, so it would find it on the wire as well.
    const clear = (await inside.stop()).filter(({ bytes }) => bytes.includes(MARKER));
    expect(clear.length).toBeGreaterThanOrEqual(4);
    const frames = await wire.stop();
    expect(conversations(frames)).toEqual([
      '172.16.1.11:6000 > 172.16.1.12:6000',
      '172.16.1.12:6000 > 172.16.1.11:6000',
    ]);
    for (const { etherType, bytes } of frames) {
      expect([IPV4, ARP]).toContain(etherType);
      for (let at = 0; at + 8 <= MARKER.length; at += 8) {
        expect(bytes.includes(MARKER.slice(at, at + 8))).toBe(false);
      }
    }
  });
});

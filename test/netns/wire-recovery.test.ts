/**
 * A server that was killed comes back to its peers by itself: it remembers where they are and
 * shakes hands at once, so that nobody waits until a client notices.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 \
 *                                       - server, tun 192.168.1.1
 *   b eth0 10.77.2.2 ---- 10.77.2.1 s2 /
 *
 * a runs vpn-client, b stock wireguard-go, "wire" a peer of the test. The times are printed. With
 * RECOVERY_BESIDE=wireguard-go in the environment they are also taken of wireguard-go as server.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Bench } from '../wire/bench.ts';
import { hex } from '../wire/primitives.ts';
import { inNet, type Net } from './harness.ts';
import { layStar, serverAddress } from './topology.ts';
import { Client, PORT, Server } from './vpn.ts';
import { delay, eventually } from './waiting.ts';
import { newKeys, startWireguardGo, stripProfile } from './wireguard.ts';

/** A client that is not sought notices the silence after 15 s at the earliest. */
const UNAIDED_SECONDS = 15;

/** A ping every 50 ms, to find when it was answered. */
class Pinging {
  readonly #program;

  constructor(net: Net, host: string, address: string) {
    this.#program = net.start(host, 'ping', ['-n', '-D', '-i', '0.05', address]);
  }

  /** Seconds from `since` (Unix seconds) to the first reply after it; null: none yet. */
  answeredAfter(since: number): number | null {
    for (const match of this.#program.stdout.matchAll(/^\[([\d.]+)\] .* ttl=/gm)) {
      const at = Number(match[1]);
      if (at > since) return at - since;
    }
    return null;
  }

  async stop(): Promise<void> {
    this.#program.signal('SIGINT');
    await this.#program.end();
  }
}

function now(): number {
  return Date.now() / 1000;
}

/** Seconds that each direction was silent after `restart`, which kills and starts the server. */
async function silence(
  net: Net,
  ways: readonly (readonly [string, string, string])[],
  restart: () => Promise<void>,
): Promise<Record<string, number>> {
  const pings = ways.map(([, host, address]) => new Pinging(net, host, address));
  await delay(1_000);
  const killed = now();
  await restart();
  const ready = now() - killed;
  // What was on its way when it was killed may still be answered.
  const back = await eventually('all are answered', 60_000, () => {
    const found = pings.map((ping) => ping.answeredAfter(killed + 0.1));
    return found.includes(null) ? undefined : (found as number[]);
  });
  await Promise.all(pings.map((ping) => ping.stop()));
  const named = ways.map(([name], i) => [name, Number(back[i]!.toFixed(2))]);
  return { 'server ready': Number(ready.toFixed(2)), ...Object.fromEntries(named) };
}

test('traffic in both directions is back without waiting for a client to notice', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    const server = await new Server(net).start();
    await new Client(net, 'a').enrol(await server.invite('a', 1));
    const profile = await server.profile('b', 2);
    const setconf = await stripProfile(net, 'b', profile);
    await startWireguardGo(
      net,
      'b',
      setconf.replace(/PersistentKeepalive.*/, ''),
      '192.168.1.3/24',
    );
    await eventually('b reaches the server', 10_000, () => net.reaches('b', '192.168.1.1'));
    const ways = [
      ['vpn-client to server', 'a', '192.168.1.1'],
      ['server to vpn-client', 'server', '192.168.1.2'],
      ['wireguard-go to server', 'b', '192.168.1.1'],
      ['server to wireguard-go', 'server', '192.168.1.3'],
    ] as const;
    const seconds = await silence(net, ways, async () => {
      await server.kill();
      await server.start();
    });
    console.log('silence in seconds after kill -9 of vpn-server:', seconds);
    for (const [way] of ways)
      expect([way, seconds[way]! < UNAIDED_SECONDS / 2]).toEqual([way, true]);
  });
});

test.runIf(process.env.RECOVERY_BESIDE === 'wireguard-go')('as wireguard-go does it', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const [server, client] = [await newKeys(net, 'server'), await newKeys(net, 'a')];
    const ofServer =
      `[Interface]\nPrivateKey = ${server.secret}\nListenPort = ${PORT}\n` +
      `[Peer]\nPublicKey = ${client.open}\nAllowedIPs = 192.168.1.2/32\n`;
    const ofClient =
      `[Interface]\nPrivateKey = ${client.secret}\n[Peer]\nPublicKey = ${server.open}\n` +
      `AllowedIPs = 192.168.1.0/24\nEndpoint = ${serverAddress(1)}:${PORT}\n`;
    const start = () => startWireguardGo(net, 'server', ofServer, '192.168.1.1/24');
    const first = await start();
    await startWireguardGo(net, 'a', ofClient, '192.168.1.2/24');
    await eventually('a reaches the server', 10_000, () => net.reaches('a', '192.168.1.1'));
    const ways = [
      ['client to server', 'a', '192.168.1.1'],
      ['server to client', 'server', '192.168.1.2'],
    ] as const;
    const seconds = await silence(net, ways, async () => {
      await first.program.kill();
      await start();
    });
    console.log('silence in seconds after kill -9 of wireguard-go:', seconds);
  });
});

describe('a server that was killed', () => {
  test('shakes hands at once, with a timestamp above all before, whatever its clock says', async () => {
    const bench = await Bench.start();
    try {
      const { server } = bench;
      if (server === null) return;
      const member = await bench.member();
      await bench.reach(member, await member.peer.connect());
      await delay(500); // where it is was written down when it came
      await server.kill();
      // As if the server had been a day ahead, or its clock were set back by one.
      const file = join(server.instance.state, 'timestamp');
      const ahead = BigInt(Math.floor(now()) + 86_400) + 0x400000000000000an;
      writeFileSync(file, `${ahead.toString(16)}00000000\n`, { mode: 0o600 });
      member.peer.skip();
      await server.start();
      const initiation = await member.peer.next('initiation');
      expect(initiation.violation).toBeNull();
      expect(hex(initiation.timestamp!) > `${ahead.toString(16)}00000000`).toBe(true);
      const { bytes, session } = member.peer.createResponse(initiation);
      await member.peer.send(bytes);
      expect((await member.peer.next('transport')).session).toBe(session);
      expect(readFileSync(file, 'utf8') > hex(initiation.timestamp!)).toBe(true);
    } finally {
      await bench.close();
    }
  });
});

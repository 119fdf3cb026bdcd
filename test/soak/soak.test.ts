/**
 * Hours of everyday trouble: streams that must stay intact while clients roam, invites come and
 * go, keys change, and programs are killed; memory and open files must not grow.
 * CULVERT_SOAK_SECONDS says how long (default 600).
 *
 *   a eth0 10.77.1.2 or .22 ---- 10.77.1.1 s1 \
 *                                              - server, tun 192.168.1.1
 *   b eth0 10.77.2.2 ----------- 10.77.2.1 s2 /
 */
import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { inNet, type Net } from '../netns/harness.ts';
import { layStar, serverAddress } from '../netns/topology.ts';
import { startStream } from '../netns/traffic.ts';
import { type Client, PORT, type Server, serverWithClients } from '../netns/vpn.ts';
import { eventually } from '../netns/waiting.ts';

const SECONDS = Number(process.env.CULVERT_SOAK_SECONDS ?? 600);
/** Allowed growth between the first round and the last. */
const GROWTH_KILOBYTES = 20_000;

interface Stage {
  readonly net: Net;
  readonly server: Server;
  readonly a: Client;
  readonly b: Client;
}

/** What happens while a stream runs; one after the other, round after round. */
const TROUBLES: readonly (readonly [string, (stage: Stage, round: number) => Promise<void>])[] = [
  ['nothing', async () => {}],
  [
    'a roams there and back',
    async ({ net }) => {
      for (const [from, to] of [
        ['10.77.1.2/24', '10.77.1.22/24'],
        ['10.77.1.22/24', '10.77.1.2/24'],
      ] as const) {
        net.ip('a', 'address', 'delete', from, 'dev', 'eth0');
        net.ip('a', 'address', 'add', to, 'dev', 'eth0');
        net.ip('a', 'route', 'replace', 'default', 'via', serverAddress(1));
        await eventually('a is heard again', 20_000, () => net.reaches('a', '192.168.1.1'));
      }
    },
  ],
  [
    'a peer comes and goes',
    async ({ server }, round) => {
      await server.profile(`guest${round}`, 1);
      expect((await server.command('revoke', `guest${round}`)).code).toBe(0);
    },
  ],
  [
    'b is killed and connects again',
    async ({ b }) => {
      await b.kill();
      expect(await b.connect(`${serverAddress(2)}:${PORT}`)).toBe('192.168.1.3');
    },
  ],
  [
    'the server is killed and starts again',
    async ({ server }) => {
      await server.kill();
      await server.start();
    },
  ],
];

/** Memory without pages of program files, which come and go. */
function footprint(pid: number): { kilobytes: number; files: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const files = readdirSync(`/proc/${pid}/fd`).length;
  return { kilobytes: Number(/^RssAnon:\s+(\d+)/m.exec(status)?.[1]), files };
}

test('streams stay intact and nothing grows', async () => {
  await inNet(['server', 'a', 'b'], async (net) => {
    layStar(net, ['a', 'b']);
    const { server, clients } = await serverWithClients(net, ['a', 'b']);
    const [a, b] = clients as [Client, Client];
    const stage = { net, server, a, b };
    const end = Date.now() + SECONDS * 1_000;
    let first: ReturnType<typeof footprint> | undefined;
    for (let round = 0; Date.now() < end; round += 1) {
      const [name, trouble] = TROUBLES[round % TROUBLES.length] ?? ['nothing', async () => {}];
      const stream = await startStream(net, 'a', 'b', '192.168.1.3', 15, 500_000);
      await trouble(stage, round);
      await stream.end(120_000);
      // a lives through everything, so its figures tell of growth.
      const now = footprint(a.program?.pid ?? 0);
      first ??= now;
      console.log(`round ${round}: ${name}: ${now.kilobytes} KiB, ${now.files} files`);
      expect(now.kilobytes).toBeLessThan(first.kilobytes + GROWTH_KILOBYTES);
      expect(now.files).toBeLessThanOrEqual(first.files + 2);
    }
  });
});

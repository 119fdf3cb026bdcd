/** Several servers of one client: what is remembered of each, and how the next try begins. What follows from it is client.test.ts and failover.test.ts. */
import { expect, test } from 'vitest';
import type { Resolution } from '../../client/connection.ts';
import type { ServerLink } from '../../client/server-link.ts';
import { type LinkStart, Servers, type ServersOptions } from '../../client/servers.ts';

test('where one of several servers was found before is known when its name cannot be looked up, and why is said', async () => {
  const found: Resolution = {
    found: [{ address: '10.77.1.1', port: 6000 }],
    ways: ['10.77.1.1 through eth0'],
    problems: [],
    hopeless: false,
  };
  const problems = ['cannot look up vpn.example: EAI_AGAIN'];
  const answers: Resolution[] = [found, { ...found, found: [], ways: [], problems }];
  const starts: LinkStart[] = [];
  const options = {
    targets: [{ type: 'file' }, { type: 'file' }],
    timeoutMs: 30_000,
    link: (start: LinkStart) => {
      starts.push(start);
      return {} as ServerLink;
    },
    resolve: async () => answers.shift(),
  };
  new Servers(options as unknown as ServersOptions);
  expect(await starts[0]?.resolve([])).toEqual(found);
  expect(await starts[0]?.resolve([])).toEqual({ ...found, problems });
});

test('a try that came to nothing is taken up where it ended: all addresses have their turn', async () => {
  const found = [1, 2, 3, 4, 5].map((n) => ({ address: `10.77.1.${n}`, port: 6000 }));
  const starts: LinkStart[] = [];
  let now = 0;
  /** Address that the engine's peer of the second server has. */
  let at: string | undefined;
  const quiet = { debug: () => {}, warn: () => {}, info: () => {}, error: () => {} };
  const options = {
    targets: [1, 2].map(() => ({ type: 'invite', endpoints: [] })),
    timeoutMs: 30_000,
    log: quiet,
    now: () => now,
    engine: () => ({ removePeer: () => {} }),
    link: (start: LinkStart) => {
      starts.push(start);
      const second = start.id === 2;
      return {
        id: start.id,
        state: second ? 'connecting' : 'reconnecting',
        plan: { endpoints: [] },
        get outer() {
          return at === undefined ? [] : [at];
        },
        ...{ input: () => {}, tick: () => {}, pause: () => {}, resume: () => {}, close: () => {} },
      } as unknown as ServerLink;
    },
    resolve: async () => ({ found, ways: [], problems: [], hopeless: false }),
    onAction: () => {},
    later: () => {},
  };
  const servers = new Servers(options as unknown as ServersOptions);
  starts[0]?.onAction({ type: 'ready' });
  const nextTry = async () => {
    const before = starts.length;
    while (starts.length === before) {
      now += 1_000;
      servers.tick();
    }
    const { found: order } = (await starts.at(-1)?.resolve([])) ?? { found: [] };
    return order.map(({ address }) => address.at(-1)).join('');
  };
  expect(await nextTry()).toBe('12345');
  at = '10.77.1.4';
  expect(await nextTry()).toBe('45123');
  at = '10.77.1.2';
  expect(await nextTry()).toBe('23451');
  // A list that has changed begins as it comes.
  at = '10.77.9.9';
  expect(await nextTry()).toBe('12345');
});

test.each([
  ['our own key', 'own', 8_000],
  ['two keys, as a change of it was cut off,', 'rotating', 14_000],
])('a server that knows us by %s has time to answer to each', (_what, identity, most) => {
  let [now, triedAt, closedAt] = [0, 0, 0];
  const links = new Map<number, ServerLink>();
  const options = {
    targets: [1, 2].map(() => ({ type: 'invite', endpoints: [] })),
    timeoutMs: 30_000,
    log: { debug: () => {} },
    now: () => now,
    engine: () => ({ removePeer: () => {} }),
    link: ({ id }: LinkStart) => {
      const link = {
        id,
        state: id === 1 ? 'reconnecting' : 'connecting',
        plan: { endpoints: [], identity },
        outer: [],
        input: () => {
          triedAt = now;
        },
        close: () => {
          closedAt = now;
        },
        ...{ tick: () => {}, pause: () => {}, resume: () => {} },
      } as unknown as ServerLink;
      links.set(id, link);
      return link;
    },
    onAction: () => {},
  };
  const servers = new Servers({
    ...options,
    resolve: () => new Promise(() => {}),
  } as unknown as ServersOptions);
  for (; closedAt === 0 && now < 60_000; now += 250) servers.tick();
  expect(links.size).toBe(2);
  expect(closedAt - triedAt).toBe(most);
});

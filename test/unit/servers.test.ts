/** Several servers of one client: what is remembered of each. What follows from it is client.test.ts and failover.test.ts. */
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

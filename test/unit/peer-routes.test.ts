/** Routes to the networks behind peers. */
import { pino } from 'pino';
import { expect, it } from 'vitest';
import { PeerRoutes } from '../../server/peer-routes.ts';

it('adds and takes away what changed, and goes on when the host refuses', async () => {
  const calls: string[] = [];
  let log = '';
  const routes = new PeerRoutes(
    'tun7',
    pino({}, { write: (line: string) => (log += line) }),
    async (_, args) => {
      calls.push(args.join(' '));
      if (args.includes('10.9.0.0/16')) throw new Error('File exists');
      return { stdout: '', stderr: '' };
    },
  );
  const since = () => calls.splice(0).map((call) => call.replace(/ dev tun7.*/, ''));
  await routes.follow(['10.1.0.0/16', '10.9.0.0/16', 'fd01::/64']);
  expect(since().map((call) => call.split(' ').slice(-2).join(' '))).toEqual([
    'add 10.1.0.0/16',
    'add 10.9.0.0/16',
    'add fd01::/64',
  ]);
  expect(log).toContain('10.9.0.0/16');
  await routes.follow(['fd01::/64']);
  expect(since().map((call) => call.split(' ').slice(-2).join(' '))).toEqual(['del 10.1.0.0/16']);
  await routes.follow(['fd01::/64']);
  expect(since()).toEqual([]);
});

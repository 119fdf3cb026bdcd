/** What `npm pack` makes runs elsewhere: the files listed in package.json are enough. No network. */
import { existsSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

test('the packed files build their addon and run in another folder', async () => {
  await inNet(['a'], async (net) => {
    const pack = ['--prefix', ROOT, 'pack', ROOT, '--ignore-scripts', '--pack-destination'];
    await net.must('a', 'npm', [...pack, net.directory], { timeoutMs: 60_000 });
    const file = readdirSync(net.directory).find((name) => name.endsWith('.tgz')) ?? '';
    await net.must('a', 'tar', ['-xzf', join(net.directory, file), '-C', net.directory]);
    const folder = join(net.directory, 'package');
    expect(existsSync(join(folder, 'README.md'))).toBe(true);
    expect(existsSync(join(folder, 'test'))).toBe(false);
    symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
    const build = [join(folder, 'scripts/build-addon.mjs')];
    await net.must('a', process.execPath, build, { timeoutMs: 280_000 });
    for (const program of ['server', 'client', 'keys']) {
      const cli = join(folder, `dist/${program}/cli.js`);
      expect(await net.must('a', process.execPath, [cli, '--help'])).toMatch(/Usage/);
    }
    const [state, run] = [join(folder, 'state'), join(folder, 'run')];
    const cli = join(folder, 'dist/server/cli.js');
    const args = ['start', '--state', state, '--run', run, '--endpoint', '10.77.1.1:6000'];
    const server = net.start('a', process.execPath, [cli, ...args]);
    await server.says(/culvert1_/);
    expect((await server.stop()).code).toBe(143);
  });
});

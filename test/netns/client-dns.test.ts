/**
 * Name servers that the server pushes: asked through the tunnel while it is up, gone afterwards.
 * resolv.conf is a bind mount in the namespace, as in containers.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server: tun 192.168.1.1, a name server there
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { ownFiles } from './host-state.ts';
import { layStar } from './topology.ts';
import { Client, PORT, Server } from './vpn.ts';

const NAMES = fileURLToPath(new URL('applications/names.mjs', import.meta.url));
const BEFORE = '# before\nnameserver 192.0.2.53\noptions timeout:1 attempts:1\n';

test('names are asked through the tunnel, and resolv.conf comes back byte for byte', async () => {
  await inNet(['server', 'a'], async (net) => {
    const file = join(ownFiles(net.namespace('a')), 'resolv.conf');
    writeFileSync(file, BEFORE);
    layStar(net, ['a']);
    const config = join(net.directory, 'server.yaml');
    writeFileSync(config, 'push: { dns: [192.168.1.1] }\n');
    const server = await new Server(net).start('--config', config);
    const names = net.start('server', process.execPath, [NAMES, '192.168.1.1', '10.9.9.9']);
    await names.says(/ready/);

    const a = new Client(net, 'a');
    await a.enrol(await server.invite('a', 1));
    await a.program?.says(/✓ dns {8}192\.168\.1\.1 for every name, by file\n.*✓ check/);
    expect(await net.must('a', 'getent', ['ahostsv4', 'intra.example'])).toMatch(/^10\.9\.9\.9 /);
    expect(names.stdout).toContain('asked intra.example 1');
    expect(readFileSync(file, 'utf8')).toContain('options timeout:1 attempts:1');
    expect((await a.command('status')).code).toBe(0);

    // Killed: the file still points into the tunnel; the next one puts it right first.
    await a.kill();
    expect(readFileSync(file, 'utf8')).not.toBe(BEFORE);
    await a.connect(`10.77.1.1:${PORT}`);
    await a.program?.says(/✓ dns/);
    expect((await a.command('disconnect')).code).toBe(0);
    expect(readFileSync(file, 'utf8')).toBe(BEFORE);

    // A server that does not answer: up, and said to be up in part.
    await names.kill();
    await a.connect(`10.77.1.1:${PORT}`);
    await a.program?.says(/! dns: .*192\.168\.1\.1 does not answer[\s\S]*connected:/);
    const { code, stdout } = await a.command('status');
    expect(code).toBe(9);
    expect(JSON.parse(stdout)).toMatchObject({ state: 'connected', dns: { keeper: 'file' } });
    expect((await a.program?.stop())?.code).toBe(143);
    expect(readFileSync(file, 'utf8')).toBe(BEFORE);
  });
});

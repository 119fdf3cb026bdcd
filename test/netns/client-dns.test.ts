/**
 * Name servers that the server pushes: asked through the tunnel while it is up, gone afterwards.
 * resolv.conf is a bind mount in the namespace, as in containers, or the own one of a namespace
 * that the client made.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server: tun 192.168.1.1, a name server there, and one on s1
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { inNet } from './harness.ts';
import { ownFiles } from './host-state.ts';
import { startNameServer } from './name-server.ts';
import { Program } from './program.ts';
import { layStar } from './topology.ts';
import { Client, commandLine, PORT, Server } from './vpn.ts';
import { eventually } from './waiting.ts';

const BEFORE = '# before\nnameserver 192.0.2.53\noptions timeout:1 attempts:1\n';

test('names are asked through the tunnel, and resolv.conf comes back byte for byte', async () => {
  await inNet(['server', 'a'], async (net) => {
    const file = join(ownFiles(net.namespace('a')), 'resolv.conf');
    writeFileSync(file, BEFORE);
    layStar(net, ['a']);
    const config = join(net.directory, 'server.yaml');
    writeFileSync(config, 'push: { dns: [192.168.1.1] }\n');
    const server = await new Server(net).start('--config', config);
    const { program: names } = await startNameServer(net, 'server', '192.168.1.1', '10.9.9.9');

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

test('programs in the namespace of a tunnel ask inside, and the files of the host stay', async () => {
  const name = `cvt-${process.pid}-dns`;
  const own = ownFiles(name);
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const config = join(net.directory, 'server.yaml');
    writeFileSync(config, 'push: { dns: [192.168.1.1], domains: [intra.example] }\n');
    const server = await new Server(net).start('--config', config);
    const { program: names } = await startNameServer(net, 'server', '192.168.1.1', '10.9.9.9');
    const client = new Client(net, 'a');
    await client.enrol(await server.invite('a', 1));
    await client.program?.stop();

    // With the files of the machine itself: the namespace that is made must be seen by `exec`.
    const before = readFileSync('/etc/resolv.conf', 'utf8');
    const { flags } = client.instance;
    const enter = (...args: string[]): [string, string[]] => {
      const [node, rest] = commandLine('client', args);
      return ['nsenter', [`--net=/run/netns/${net.namespace('a')}`, node, ...rest]];
    };
    const connect = async () => {
      const [file, args] = enter('connect', `10.77.1.1:${PORT}`, '--netns', name, ...flags);
      const program = net.adopt(new Program(file, args));
      await program.says(/✓ dns {8}192\.168\.1\.1 for every name, by file\n[\s\S]*connected:/);
      return program;
    };
    const exec = (...args: string[]) =>
      spawnSync(...enter('exec', ...flags, ...args), { encoding: 'utf8' }).stdout;
    const inUse = () => {
      expect(exec('getent', 'ahostsv4', 'www.intra.example')).toMatch(/^10\.9\.9\.9 /);
      expect(exec('cat', '/etc/resolv.conf')).toMatch(/nameserver 192\.168\.1\.1\nsearch intra/);
      expect(readFileSync('/etc/resolv.conf', 'utf8')).toBe(before);
      expect(net.difference('a')).toEqual([]);
    };
    const push = async (dns: string, domains: string) => {
      writeFileSync(config, `push: { dns: [${dns}], domains: [${domains}] }\n`);
      await server.json('reload');
    };
    /** A program that runs goes on with the servers that are pushed meanwhile. */
    const seesWhatIsPushed = async () => {
      const show = 'cat /etc/resolv.conf; read line; cat /etc/resolv.conf';
      const inside = spawn(...enter('exec', ...flags, 'sh', '-c', show));
      let shown = '';
      inside.stdout.on('data', (text) => {
        shown += text;
      });
      try {
        await eventually('the program runs', 10_000, () => shown.includes('192.168.1.1'));
        await push('192.168.1.1, 192.168.1.53', '');
        const pushed = () => readFileSync(join(own, 'resolv.conf'), 'utf8').includes('1.53');
        await eventually('the new ones are pushed', 10_000, pushed);
        expect(shown).not.toContain('192.168.1.53');
      } finally {
        inside.stdin.end('\n');
        await once(inside, 'close');
      }
      expect(shown).toContain('nameserver 192.168.1.53');
      await push('192.168.1.1', 'intra.example');
    };
    const gone = () => [existsSync(`/run/netns/${name}`), existsSync(own)];
    try {
      const first = await connect();
      inUse();
      await names.says(/asked www\.intra\.example 1/);
      await seesWhatIsPushed();
      expect((await first.stop()).code).toBe(143);
      expect(gone()).toEqual([false, false]);

      const second = await connect();
      await second.kill();
      expect(gone()).toEqual([true, true]);
      // The next one begins with what this one left.
      const third = await connect();
      inUse();
      await third.kill();
      expect(spawnSync(...enter('cleanup', ...flags)).status).toBe(0);
      expect(gone()).toEqual([false, false]);
      expect(readFileSync('/etc/resolv.conf', 'utf8')).toBe(before);
    } finally {
      if (gone().includes(true)) execFileSync('sh', ['-c', `rm -rf ${own}; ip netns del ${name}`]);
    }
  });
});

/** Runs a program with a folder of the test in place of /etc: files in it can be renamed and removed. */
const IN_ETC = 'mount --bind "$0" /etc && exec "$@"';

test('other programs write, remove and replace resolv.conf: names go on being asked inside', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const config = join(net.directory, 'server.yaml');
    writeFileSync(config, 'push: { dns: [192.168.1.1] }\n');
    const server = await new Server(net).start('--config', config);
    await startNameServer(net, 'server', '192.168.1.1', '10.9.9.9');
    const { program: router } = await startNameServer(net, 'server', '10.77.1.1', '10.8.8.8');
    const client = new Client(net, 'a');
    await client.enrol(await server.invite('a', 1));
    await client.program?.stop();

    const dhcp = (round: number) =>
      `# ${round}\nnameserver 10.77.1.1\noptions timeout:1 attempts:1\n`;
    const etcFolder = (name: string) => {
      const folder = join(net.directory, name);
      mkdirSync(folder);
      for (const own of ['passwd', 'group', 'nsswitch.conf', 'ld.so.cache', 'ssl']) {
        if (existsSync(join('/etc', own)))
          cpSync(join('/etc', own), join(folder, own), { recursive: true });
      }
      writeFileSync(join(folder, 'resolv.conf'), dhcp(0));
      return folder;
    };
    // Two hosts' files: the client's, and one that nobody changes.
    const [etc, lan] = [etcFolder('etc'), etcFolder('lan')];
    const file = join(etc, 'resolv.conf');
    const text = () => readFileSync(file, 'utf8');
    const { flags } = client.instance;
    const inEtc = (...args: string[]) => ['-c', IN_ETC, etc, ...commandLine('client', args).flat()];
    const connect = async (...options: string[]) => {
      const args = inEtc('connect', `10.77.1.1:${PORT}`, ...flags, ...options);
      const program = net.start('a', 'sh', args);
      await program.says(/✓ dns {8}192\.168\.1\.1 for every name, by file\n[\s\S]*connected:/);
      return program;
    };
    const asked = async (folder: string, name: string) => {
      const args = ['-c', IN_ETC, folder, 'getent', 'ahostsv4', name];
      return (await net.run('a', 'sh', args)).stdout.split(' ')[0];
    };
    const back = () => eventually('ours is back', 5_000, () => text().includes('192.168.1.1'));

    expect(await asked(lan, 'before.example')).toBe('10.8.8.8');
    const first = await connect('--full', '--protect');
    expect(await asked(etc, 'inside.example')).toBe('10.9.9.9');
    expect(await asked(lan, 'refused.example')).toBe('');

    writeFileSync(file, dhcp(1));
    await back();
    await first.says(/another program changed \/etc\/resolv\.conf/);
    expect(await asked(etc, 'rewritten.example')).toBe('10.9.9.9');
    rmSync(file);
    await back();
    expect((await client.command('status')).code).toBe(0);
    expect((await client.command('disconnect')).code).toBe(0);
    expect(text()).toBe(dhcp(1));
    expect(await asked(lan, 'after.example')).toBe('10.8.8.8');

    // Killed after that, with the file gone: what DHCP wrote last comes back.
    const second = await connect('--full');
    writeFileSync(file, dhcp(2));
    await back();
    await second.kill();
    rmSync(file);
    await net.must('a', 'sh', inEtc('cleanup', ...flags));
    expect(text()).toBe(dhcp(2));

    // After a loss of power no journal is left: the file itself says what was there.
    const lost = await connect();
    await lost.kill();
    const runDirectory = flags[flags.indexOf('--run') + 1] ?? '';
    for (const name of readdirSync(runDirectory)) {
      if (name.endsWith('.journal')) rmSync(join(runDirectory, name));
    }
    expect(text()).toContain('192.168.1.1');
    const next = await connect();
    await next.says(/undoing what a client before left behind/);
    expect((await client.command('disconnect')).code).toBe(0);
    expect(text()).toBe(dhcp(2));

    // Another resolver has taken over: this is said, and its link stays.
    const third = await connect('--full');
    rmSync(file);
    symlinkSync('stub.conf', file);
    await third.says(/not asked through the tunnel: .*a link to stub\.conf now/);
    const { code, stdout } = await client.command('status');
    expect(code).toBe(9);
    expect(JSON.parse(stdout).dns.problem).toMatch(/is a link/);
    expect((await client.command('disconnect')).code).toBe(0);
    expect(readlinkSync(file)).toBe('stub.conf');
    expect(router.stdout).toContain('asked before.example 1');
    expect(router.stdout).not.toMatch(/inside|refused|rewritten/);
  });
});

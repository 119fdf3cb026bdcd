/**
 * Disks of the client's host that are full: what cannot be written down is not done, and what was
 * done is undone. Run directory and resolver file lie on disks of their own, of a few KiB. No server
 * is needed: the profile's peer is one that calls us.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import { inNet } from './harness.ts';
import { Program } from './program.ts';
import { layStar } from './topology.ts';
import { Client, commandLine } from './vpn.ts';

/** Two pages: ours is longer, as it has the former one within it. */
const RESOLVER = `nameserver 192.0.2.53\n${'# as before\n'.repeat(330)}`;

test('with a full disk the host stays or becomes as it was, and the commands say what is wrong', async () => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const profile = join(net.directory, 'office.conf');
    const [own, other] = [generatePrivateKey(), generatePrivateKey()];
    const peer = `[Peer]\nPublicKey = ${keyToBase64(publicKeyOf(other))}\nAllowedIPs = 0.0.0.0/0`;
    const text = `[Interface]\nPrivateKey = ${keyToBase64(own)}\nAddress = 10.9.0.2/24\nDNS = 10.9.0.1`;
    writeFileSync(profile, `${text}\n${peer}\n`, { mode: 0o600 });
    const { flags } = new Client(net, 'a').instance;
    const run = flags[flags.indexOf('--run') + 1] ?? '';
    const [disk, resolver] = [join(net.directory, 'disk'), join(net.directory, 'resolv.conf')];
    for (const folder of [disk, run]) mkdirSync(folder, { recursive: true });
    writeFileSync(resolver, RESOLVER);
    const disks = `mount -t tmpfs -o size=64k tmpfs ${run} && mount -t tmpfs -o size=8k tmpfs ${disk} &&
      cp ${resolver} ${disk} && mount --bind ${disk}/resolv.conf /etc/resolv.conf &&
      { dd if=/dev/zero of=${disk}/fill bs=4k 2> /dev/null; echo ready; exec sleep 600; }`;
    const holder = net.start('a', 'sh', ['-c', disks]);
    await holder.says(/ready/);
    const inside = ['--mount', '--net', `--target=${holder.pid}`];
    const there = (...command: string[]) => net.run('a', 'nsenter', [...inside, ...command]);
    const client = (...args: string[]) =>
      there(...commandLine('client', [...args, ...flags, '--json']).flat());
    const fill = () => there('sh', '-c', `dd if=/dev/zero of=${run}/fill bs=4k`);
    const empty = () => there('rm', `${run}/fill`);
    const files = async () => (await there('ls', '-A', run)).stdout.trim().split('\n');
    const connect = async () => {
      const [file, args] = commandLine('client', ['connect', profile, '--full', ...flags]);
      const program = net.adopt(new Program('nsenter', [...inside, file, ...args]));
      await program.says(/! dns: .*resolv\.conf: ENOSPC[\s\S]*connected:/);
      return program;
    };
    const asBefore = async () => {
      expect(net.difference('a')).toEqual([]);
      expect((await there('cat', '/etc/resolv.conf')).stdout).toBe(RESOLVER);
    };

    await fill();
    const refused = await client('connect', profile, '--full', '--protect');
    expect([refused.code, refused.stdout]).toEqual([5, expect.stringMatching(/journal.*ENOSPC/)]);
    expect(await files()).toEqual(['fill']);
    await asBefore();

    await empty();
    const ended = await connect();
    await fill();
    expect((await client('disconnect')).code).toBe(0);
    await ended.end();
    expect(ended.stderr).not.toContain('could not undo');
    expect(await files()).toEqual(['fill']);
    await asBefore();

    await empty();
    const killed = await connect();
    await fill();
    await killed.kill();
    const cleaned = await client('cleanup');
    expect(cleaned.code, cleaned.stdout + cleaned.stderr).toBe(0);
    expect(JSON.parse(cleaned.stdout)).toMatchObject({ failed: [] });
    expect(await files()).toEqual(['cleanup.lock', 'fill']);
    await asBefore();
  });
});

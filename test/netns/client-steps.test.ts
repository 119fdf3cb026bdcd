/**
 * Whatever a client does to its host is undone: it is killed at every single command that changes
 * something, and cleaned up after; then it ends in the ordinary ways. No server is needed: the
 * profile's peer is one that calls us.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server (silent)
 */
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import { inNet, type Net } from './harness.ts';
import { Program } from './program.ts';
import { layStar } from './topology.ts';
import { Client, commandLine } from './vpn.ts';
import { eventually } from './waiting.ts';

/** More commands than any client needs. */
const MOST_STEPS = 40;
const CHANGERS = ['ip', 'nft', 'resolvectl', 'resolvconf'];

/** A client whose n-th changing command ends it with SIGKILL, before or after it is carried out. */
class Steps {
  readonly #folder: string;
  readonly #net: Net;
  readonly #client: Client;
  readonly #args: readonly string[];

  constructor(net: Net, client: Client, args: readonly string[]) {
    this.#net = net;
    this.#client = client;
    this.#args = args;
    this.#folder = join(net.directory, 'programs');
    mkdirSync(this.#folder);
    for (const name of CHANGERS) {
      const file = join(this.#folder, name);
      writeFileSync(file, wrapper(name, this.#folder));
      chmodSync(file, 0o755);
    }
  }

  start(when: 'before' | 'after' | 'never', step: number): Program {
    writeFileSync(join(this.#folder, 'ran'), '');
    writeFileSync(join(this.#folder, 'count'), '0\n');
    writeFileSync(join(this.#folder, 'when'), `${when} ${step}\n`);
    const flags = this.#client.instance.flags;
    const [node, args] = commandLine('client', ['connect', ...this.#args, ...flags]);
    // These programs are the client's alone; a namespace that it makes is everybody's.
    const script = `mount --make-private / && mount --bind ${this.#folder} /usr/local/sbin && exec "$@"`;
    const namespace = `/run/netns/${this.#net.namespace(this.#client.host)}`;
    const enter = [`--net=${namespace}`, 'unshare', '--mount', '--propagation', 'unchanged'];
    return this.#net.adopt(
      new Program('nsenter', [...enter, 'sh', '-c', script, 'sh', node, ...args]),
    );
  }

  /** What was run, one command each. */
  get commands(): string[] {
    return readFileSync(join(this.#folder, 'ran'), 'utf8').trim().split('\n');
  }

  get count(): number {
    return Number(readFileSync(join(this.#folder, 'count'), 'utf8'));
  }
}

function wrapper(name: string, folder: string): string {
  return `#!/bin/sh
real=/usr/sbin/${name}; [ -x $real ] || real=/usr/bin/${name}
case "$*" in *-json*|*monitor*|"-j "*|*" get "*) exec $real "$@";; esac
n=$(($(cat ${folder}/count) + 1)); echo $n > ${folder}/count; echo "${name} $*" >> ${folder}/ran
read when at < ${folder}/when
[ "$when $at" = "before $n" ] && { kill -9 $PPID; exit 1; }
$real "$@"; code=$?
[ "$when $at" = "after $n" ] && kill -9 $PPID
exit $code
`;
}

/** What `difference` of the harness does not look at. */
function settings(net: Net): Promise<string> {
  const files = 'ipv4/ip_forward ipv4/conf/*/rp_filter ipv4/conf/*/src_valid_mark';
  const script = `cd /proc/sys/net && grep . ${files}; ls -l /etc/resolv.conf; cat /etc/resolv.conf`;
  return net.must('a', 'sh', ['-c', script]);
}

function profile(net: Net): string {
  const file = join(net.directory, 'office.conf');
  const [own, other] = [generatePrivateKey(), generatePrivateKey()];
  const text = `[Interface]
PrivateKey = ${keyToBase64(own)}
Address = 192.168.9.2/24, fd00:9::2/64
[Peer]
PublicKey = ${keyToBase64(publicKeyOf(other))}
AllowedIPs = 0.0.0.0/0, ::/0, 10.9.0.0/16
`;
  writeFileSync(file, text, { mode: 0o600 });
  return file;
}

/**
 * What a cleanup has undone. Not dead sockets for `wg`: their folder is the machine's, and programs
 * that other tests kill beside this one leave theirs there, too.
 */
function ownOf(stdout: string): string[] {
  const { undone } = JSON.parse(stdout) as { undone: string[] };
  return undone.filter((what) => !what.startsWith('socket /var/run/wireguard/'));
}

test.each([
  ['a full tunnel under protection', ['--full', '--protect']],
  ['a namespace', ['--netns', `cvt-${process.pid}-steps`]],
])('a client with %s, killed at every step, is cleaned up exactly', async (_, flags) => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const client = new Client(net, 'a');
    const file = profile(net);
    const steps = new Steps(net, client, [file, ...flags]);
    const before = await settings(net);
    const cleaned = async (when: string) => {
      const { code, stdout, stderr } = await client.command('cleanup');
      expect(code, stdout + stderr).toBe(0);
      expect(net.difference('a'), when).toEqual([]);
      expect(existsSync(`/run/netns/${flags[1]}`), when).toBe(false);
      return { undone: ownOf(stdout) };
    };

    const planned = await client.command('connect', file, ...flags, '--plan');
    expect(planned.code, planned.stdout).toBe(0);
    expect(net.difference('a')).toEqual([]);
    const { steps: plan } = JSON.parse(planned.stdout) as { steps: { command: string[] }[] };

    const whole = steps.start('never', 0);
    await whole.says(/connected:/);
    const count = steps.count;
    expect(steps.commands).toEqual(expect.arrayContaining(plan.map((s) => s.command.join(' '))));
    expect(plan.length).toBeGreaterThan(4);
    expect(count).toBeLessThan(MOST_STEPS);
    // The first may have removed what another test has left for `wg`.
    const refused = async () => (await client.command('cleanup')).code === 8;
    await eventually('cleanup refuses', 10_000, refused);
    await whole.kill();
    expect((await cleaned('when connected')).undone.length).toBeGreaterThan(3);
    expect((await cleaned('a second time')).undone).toEqual([]);

    for (let step = 1; step <= count; step++) {
      // Before its command a change is in the journal and not made, which is the same for all.
      for (const when of step % 4 === 1 ? (['before', 'after'] as const) : (['after'] as const)) {
        const { code } = await steps.start(when, step).end();
        expect(code, `${when} step ${step}`).toBe(137);
        await cleaned(`${when} step ${step} of ${count}`);
      }
    }

    const last = steps.start('never', 0);
    await last.says(/connected:/);
    expect((await last.stop()).code).toBe(143);
    expect(net.difference('a')).toEqual([]);
    expect(await settings(net)).toBe(before);
  });
});

test.each([
  ['is damaged', (journal: string) => writeFileSync(journal, '{damaged'), 1],
  ['is gone', (journal: string) => rmSync(journal), 0],
])('a client that was killed is cleaned up when its journal %s', async (_, damage, code) => {
  await inNet(['server', 'a'], async (net) => {
    layStar(net, ['a']);
    const client = new Client(net, 'a');
    const program = client.begin(profile(net), '--full', '--protect');
    await program.says(/connected:/);
    await program.kill();
    damage(join(client.instance.flags[3]!, 'client-office.journal'));
    const doctor = await client.command('doctor');
    expect(doctor.stdout).toMatch(/table inet culvert-protect-cvc/);
    const first = await client.command('cleanup');
    expect(first.code, first.stdout + first.stderr).toBe(code);
    expect(first.stdout).toMatch(/table inet culvert-protect-cvc\w+, of a client that is gone/);
    expect(net.difference('a')).toEqual([]);
    const second = await client.command('cleanup');
    expect([second.code, ownOf(second.stdout)]).toEqual([0, []]);
    expect(JSON.parse(second.stdout)).toMatchObject({ failed: [] });
  });
});

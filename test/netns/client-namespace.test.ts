/**
 * A tunnel in a namespace of its own where something is in its way, and what a client leaves there
 * that was killed and has lost its journal. No server is needed: the profile's peer is one that
 * calls us. Namespaces and /etc/netns are those of the machine, so names have our process id.
 *
 *   a eth0 10.77.1.2 ---- 10.77.1.1 s1 server (silent)
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { generatePrivateKey, keyToBase64, publicKeyOf } from '../../keys/keypair.ts';
import { inNet, type Net } from './harness.ts';
import { ownFiles } from './host-state.ts';
import { Program } from './program.ts';
import { layStar } from './topology.ts';
import { Client, commandLine } from './vpn.ts';
import { eventually } from './waiting.ts';

const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8' });

/** What a cleanup undid of a namespace; sockets of other tests may be beside it. */
function namesIn(stdout: string, netns: string): string[] {
  const { undone } = JSON.parse(stdout) as { undone: string[] };
  return undone.filter((what) => what.includes(netns));
}

/** `body` with a name for a namespace, of which nothing is left afterwards. */
async function withName(end: string, body: (netns: string, net: Net) => Promise<void>) {
  const netns = `cvt-${process.pid}-${end}`;
  try {
    await inNet(['server', 'a'], async (net) => {
      layStar(net, ['a']);
      await body(netns, net);
    });
  } finally {
    if (existsSync(`/run/netns/${netns}`)) ip('netns', 'delete', netns);
    rmSync(ownFiles(netns), { recursive: true, force: true });
  }
}

/** Programs on host a with the machine's own mounts: a namespace that one makes others see. */
class Host {
  readonly client: Client;
  readonly #net: Net;
  readonly #profile: string;

  constructor(net: Net, name = 'office') {
    this.client = new Client(net, 'a', name);
    this.#net = net;
    this.#profile = join(net.directory, `${name}.conf`);
    const [own, other] = [generatePrivateKey(), generatePrivateKey()];
    const inside = `PrivateKey = ${keyToBase64(own)}\nAddress = 10.0.9.2/24\nDNS = 10.0.9.1\n`;
    const peer = `PublicKey = ${keyToBase64(publicKeyOf(other))}\nAllowedIPs = 0.0.0.0/0\n`;
    writeFileSync(this.#profile, `[Interface]\n${inside}[Peer]\n${peer}`, { mode: 0o600 });
  }

  get journal(): string {
    return join(this.client.instance.flags[3]!, 'client-office.journal');
  }

  connect(netns: string): Program {
    const { flags } = this.client.instance;
    return this.#start('connect', this.#profile, '--netns', netns, ...flags);
  }

  async run(command: string, ...flags: string[]) {
    const place = flags.length > 0 ? flags : this.client.instance.flags;
    return this.#start(command, ...place, '--json').end();
  }

  exec(netns: string, ...command: string[]): Program {
    return this.#start('exec', ...this.client.instance.flags, '--netns', netns, ...command);
  }

  #start(...args: string[]): Program {
    const [node, all] = commandLine('client', args);
    const enter = [`--net=/run/netns/${this.#net.namespace('a')}`, node, ...all];
    return this.#net.adopt(new Program('nsenter', enter));
  }
}

const hop = (last: number) => ['nexthop', 'via', `192.0.2.${last}`, 'dev', 'v0'];

test.each([
  ['a default route', ['-4', 'route', 'add', 'default', 'via', '192.0.2.1']],
  // What the tunnel does not carry, or our route does not clash with, would leave all the same.
  ['one of another family', ['-6', 'route', 'add', 'default', 'dev', 'v0']],
  ['one of lower rank', ['-4', 'route', 'add', 'default', 'via', '192.0.2.1', 'metric', '900']],
  ['one over several links', ['-4', 'route', 'add', 'default', ...hop(1), ...hop(3)]],
])('a namespace that has %s is refused by name, and stays as it was', async (_, route) => {
  await withName('taken', async (netns, net) => {
    const inside = (...args: string[]) => ip('-n', netns, ...args);
    ip('netns', 'add', netns);
    inside('link', 'add', 'v0', 'type', 'veth', 'peer', 'name', 'v1');
    inside('address', 'add', '192.0.2.2/24', 'dev', 'v0');
    // Without addresses that come by themselves, some time later.
    const up = ['addrgenmode', 'none', 'up'];
    for (const device of ['v0', 'v1']) inside('link', 'set', device, ...up);
    inside(...route);
    const state = () => inside('route', 'show', 'table', 'all') + inside('link');
    const before = state();
    const { code, stderr } = await new Host(net).connect(netns).end();
    expect(stderr).toContain(`namespace ${netns} has a default route already, through v0`);
    expect(stderr).toContain(`ip -n ${netns} route`);
    expect(stderr).not.toContain('File exists');
    expect(code).toBe(5);
    expect(state()).toBe(before);
    expect(existsSync(ownFiles(netns))).toBe(false);
    expect(net.difference('a')).toEqual([]);
  });
});

test('a name that is a file, and no namespace, is refused with what to do; two that make one at once do not meet in it', async () => {
  await withName('half', async (netns, net) => {
    const path = `/run/netns/${netns}`;
    const host = new Host(net);
    writeFileSync(path, '');
    const { code, stderr } = await host.connect(netns).end();
    expect([code, stderr]).toEqual([5, expect.stringContaining(`ip netns delete ${netns}`)]);
    expect(stderr).toContain(`${path} is there and was no network namespace`);
    const exec = await host.exec(netns, 'true').end();
    expect([exec.code, exec.stderr]).toEqual([3, expect.stringContaining('no network namespace')]);
    expect(existsSync(path)).toBe(true);
    ip('netns', 'delete', netns);

    const other = new Host(net, 'other');
    const both = [host.connect(netns), other.connect(netns)];
    const outcome = async (program: Program) =>
      Promise.race([program.says(/connected:/, 20_000).then(() => 0), program.end()]);
    const ends = await Promise.all(both.map(outcome));
    const losers = ends.filter((end) => end !== 0);
    expect(losers.length).toBe(1);
    const [loser] = losers as { code: number; stderr: string }[];
    expect(loser?.code, loser?.stderr).toBe(5);
    for (const program of both) if (program.running) await program.stop();
    expect([existsSync(path), existsSync(ownFiles(netns))]).toEqual([false, false]);
    expect(net.difference('a')).toEqual([]);
  });
});

test('a client in a namespace that was killed, and its journal lost, is cleaned up by its own run directory, or its next start', async () => {
  await withName('lost', async (netns, net) => {
    const host = new Host(net);
    const file = join(ownFiles(netns), 'resolv.conf');
    const lose = async () => {
      const program = host.connect(netns);
      await program.says(/connected:/);
      await program.kill();
      rmSync(host.journal);
      expect(existsSync(`/run/netns/${netns}`)).toBe(true);
    };
    const gone = () => [existsSync(`/run/netns/${netns}`), existsSync(ownFiles(netns))];
    await lose();
    const doctor = await host.run('doctor');
    expect(doctor.stdout).toContain(`file ${file}, namespace ${netns}`);

    // Its own client knows more, if it has a journal.
    const { flags } = new Client(net, 'a', 'other').instance;
    const other = await host.run('cleanup', ...flags);
    expect([other.code, namesIn(other.stdout, netns)]).toEqual([0, []]);
    expect(other.stderr).toContain(`cleanup --run ${host.client.instance.flags[3]}`);
    expect(gone()).toEqual([true, true]);

    const own = await host.run('cleanup');
    expect(own.code, own.stdout + own.stderr).toBe(0);
    const undone = [`file ${file}`, `namespace ${netns}`];
    expect(namesIn(own.stdout, netns)).toEqual(
      undone.map((what) => `${what}, of a client that is gone`),
    );
    expect(gone()).toEqual([false, false]);
    expect(namesIn((await host.run('cleanup')).stdout, netns)).toEqual([]);

    await lose();
    const next = host.connect(netns);
    await next.says(/connected:/);
    expect(readFileSync(file, 'utf8')).toContain('nameserver 10.0.9.1');
    // What runs is nobody's to remove.
    // The first may have removed what another test has left for `wg`.
    const refused = async () => (await host.run('cleanup')).code === 8;
    await eventually('cleanup refuses', 10_000, refused);
    expect((await next.stop()).code).toBe(143);
    expect(gone()).toEqual([false, false]);
    expect(net.difference('a')).toEqual([]);
  });
});

// The demo's three hosts as network namespaces, and the programs in them.
//
//   alice 10.77.1.2 ---- 10.77.1.1 server 10.77.2.1 ---- 10.77.2.2 bob
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const HOSTS = ['server', 'alice', 'bob'];

/** The network; `close` ends every program and removes everything. */
export class DemoNetwork {
  directory = mkdtempSync(join(tmpdir(), 'culvert-demo-'));
  #tag = `culvert-demo-${process.pid}`;
  #children = [];

  open() {
    for (const host of HOSTS) {
      ip('netns', 'add', this.#namespace(host));
      ip('-n', this.#namespace(host), 'link', 'set', 'lo', 'up');
    }
    ['alice', 'bob'].forEach((host, at) => {
      this.#wire(host, at + 1);
    });
  }

  /** Runs a command in a host to its end; returns stdout, throws with its output. */
  run(host, file, args) {
    return execFileSync('ip', ['netns', 'exec', this.#namespace(host), file, ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 60_000,
    });
  }

  /** Starts a program in a host; its output is kept in `output`. */
  start(host, file, args) {
    const child = spawn('ip', ['netns', 'exec', this.#namespace(host), file, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const program = { child, output: '', ended: false };
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        program.output += text;
      });
    }
    child.once('close', () => {
      program.ended = true;
    });
    this.#children.push(program);
    return program;
  }

  /** Waits at most 60 s until `probe` returns something truthy; throws `what` with the output. */
  async until(what, program, probe) {
    const end = Date.now() + 60_000;
    for (;;) {
      const value = attempt(probe);
      if (value) return value;
      if (program.ended || Date.now() > end) throw new Error(`${what}:\n${program.output}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** Ends a program and waits for it. */
  async stop(program, signal = 'SIGTERM') {
    program.child.kill(signal);
    const end = Date.now() + 5_000;
    while (!program.ended && Date.now() < end) await new Promise((r) => setTimeout(r, 20));
    if (!program.ended) program.child.kill('SIGKILL');
  }

  async close() {
    await Promise.all(this.#children.map((program) => this.stop(program)));
    this.discard();
  }

  /** Removes everything at once. */
  discard() {
    for (const { child } of this.#children) child.kill('SIGKILL');
    for (const host of HOSTS) attempt(() => ip('netns', 'delete', this.#namespace(host)));
    rmSync(this.directory, { recursive: true, force: true });
  }

  #wire(host, leg) {
    const [server, client] = [this.#namespace('server'), this.#namespace(host)];
    const peer = ['type', 'veth', 'peer', 'name', 'eth0', 'netns', client];
    ip('link', 'add', `s${leg}`, 'netns', server, ...peer);
    ip('-n', server, 'address', 'add', `10.77.${leg}.1/24`, 'dev', `s${leg}`);
    ip('-n', server, 'link', 'set', `s${leg}`, 'up');
    ip('-n', client, 'address', 'add', `10.77.${leg}.2/24`, 'dev', 'eth0');
    ip('-n', client, 'link', 'set', 'eth0', 'up');
  }

  #namespace(host) {
    return `${this.#tag}-${host}`;
  }
}

function ip(...args) {
  return execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

function attempt(action) {
  try {
    return action();
  } catch {
    return undefined;
  }
}

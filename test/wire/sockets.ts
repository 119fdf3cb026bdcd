/**
 * UDP sockets for the test peer: in the test's own process, or in a network namespace through
 * socket-process.mjs. Carries bytes with their arrival time; decides nothing.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import dgram from 'node:dgram';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export interface SocketAddress {
  readonly address: string;
  readonly port: number;
}

export interface Datagram {
  /** CLOCK_MONOTONIC in milliseconds, the same in every process of the host. */
  readonly at: number;
  readonly from: SocketAddress;
  readonly bytes: Uint8Array;
}

export interface WireSocket {
  readonly local: SocketAddress;
  /** Resolves when the datagrams were handed to the kernel, in order. */
  send(to: SocketAddress, ...datagrams: readonly Uint8Array[]): Promise<void>;
  /** One receiver; a later one replaces it. */
  receive(take: (datagram: Datagram) => void): void;
  close(): void;
}

export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** A socket of this process, bound to `address`. */
export async function openLocalSocket(address: string, port = 0): Promise<WireSocket> {
  const socket = dgram.createSocket({ type: address.includes(':') ? 'udp6' : 'udp4' });
  await new Promise<void>((done, fail) => {
    socket.once('error', fail);
    socket.bind(port, address, () => {
      socket.off('error', fail);
      done();
    });
  });
  socket.setRecvBufferSize(4 << 20);
  const bound = socket.address();
  return {
    local: { address: bound.address, port: bound.port },
    async send(to, ...datagrams) {
      const sent = datagrams.map(
        (bytes) =>
          new Promise<void>((done, fail) =>
            socket.send(bytes, to.port, to.address, (error) => (error ? fail(error) : done())),
          ),
      );
      await Promise.all(sent);
    },
    receive(take) {
      socket.removeAllListeners('message');
      socket.on('message', (bytes, from) =>
        take({
          at: monotonicMs(),
          from: { address: from.address, port: from.port },
          bytes: new Uint8Array(bytes),
        }),
      );
    },
    close() {
      socket.close();
    },
  };
}

interface Line {
  readonly event: 'open' | 'sent' | 'datagram' | 'error';
  readonly id: number;
  readonly at: number;
  readonly address: string;
  readonly port: number;
  readonly bytes: string;
  readonly message: string;
}

interface Remote {
  settle: { done: (line: Line) => void; fail: (error: Error) => void }[];
  take: (datagram: Datagram) => void;
}

/** Opens sockets inside one network namespace until it is closed. */
export class NamespaceSockets {
  private readonly child: ChildProcess;
  private readonly remotes = new Map<number, Remote>();
  private lastId = 0;

  constructor(namespace: string) {
    const program = fileURLToPath(new URL('socket-process.mjs', import.meta.url));
    this.child = spawn('ip', ['netns', 'exec', namespace, process.execPath, program], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    createInterface({ input: this.child.stdout! }).on('line', (text) => this.hear(text));
    this.child.on('exit', () => this.failAll(new Error('the socket process ended')));
    this.child.stdin!.on('error', (error) => this.failAll(error));
  }

  async open(address: string, port = 0): Promise<WireSocket> {
    const id = ++this.lastId;
    this.remotes.set(id, { settle: [], take: () => {} });
    const bound = await this.ask(id, { op: 'open', address, port });
    return {
      local: { address: bound.address, port: bound.port },
      send: async (to, ...datagrams) => {
        if (datagrams.length === 0) return;
        const encoded = datagrams.map((d) => Buffer.from(d).toString('base64'));
        await this.ask(id, { op: 'send', ...to, datagrams: encoded });
      },
      receive: (take) => {
        this.remotes.get(id)!.take = take;
      },
      close: () => {
        this.say({ op: 'close', id });
        this.remotes.delete(id);
      },
    };
  }

  /** Ends the process and with it every socket. */
  async close(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = new Promise<void>((done) => this.child.once('exit', () => done()));
    this.child.stdin!.end();
    await ended;
  }

  private ask(id: number, command: object): Promise<Line> {
    const remote = this.remotes.get(id)!;
    return new Promise((done, fail) => {
      remote.settle.push({ done, fail });
      this.say({ ...command, id });
    });
  }

  private say(command: object): void {
    this.child.stdin!.write(`${JSON.stringify(command)}\n`);
  }

  private hear(text: string): void {
    const line = JSON.parse(text) as Line;
    const remote = this.remotes.get(line.id);
    if (remote === undefined) return;
    if (line.event === 'datagram') {
      remote.take({
        at: line.at,
        from: { address: line.address, port: line.port },
        bytes: new Uint8Array(Buffer.from(line.bytes, 'base64')),
      });
    } else if (line.event === 'error') {
      remote.settle.shift()?.fail(new Error(line.message));
    } else {
      remote.settle.shift()?.done(line);
    }
  }

  private failAll(error: Error): void {
    for (const remote of this.remotes.values()) {
      for (const waiting of remote.settle.splice(0)) waiting.fail(error);
    }
  }
}

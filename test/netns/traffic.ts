/** Application traffic between hosts: echo, checksummed streams, rates, raw datagrams. */
import { fileURLToPath } from 'node:url';
import type { Net } from './harness.ts';
import type { Program } from './program.ts';

function application(name: string): string {
  return fileURLToPath(new URL(`applications/${name}.mjs`, import.meta.url));
}

/** Starts an echo server (UDP and TCP) and waits until it listens. */
export async function startEcho(
  net: Net,
  host: string,
  address: string,
  port = 5000,
): Promise<Program> {
  const echo = net.start(host, process.execPath, [application('echo'), address, String(port)]);
  await echo.says(/ready/);
  return echo;
}

/** Says `text` over UDP and TCP from a bound address; both answers must be equal to it. */
export async function talk(
  net: Net,
  host: string,
  from: string,
  to: string,
  text: string,
  port = 5000,
): Promise<{ udp: boolean; tcp: boolean }> {
  const args = [application('talk'), from, String(port), to, String(port), text];
  return JSON.parse(await net.must(host, process.execPath, args)) as { udp: boolean; tcp: boolean };
}

/** A TCP stream under way; `end` waits for it and tells whether every byte arrived intact. */
export class Stream {
  readonly source: Program;
  readonly #sink: Program;

  constructor(source: Program, sink: Program) {
    this.source = source;
    this.#sink = sink;
  }

  /** Waits until it flows. */
  async flows(): Promise<this> {
    await this.source.says(/sent \d+\n.*sent \d+/s);
    return this;
  }

  /** Bytes given to the socket so far. */
  get sent(): number {
    const lines = [...this.source.stdout.matchAll(/^sent (\d+)$/gm)];
    return Number(lines.at(-1)?.[1] ?? 0);
  }

  /** Resolves when the transfer ended; throws when a byte was lost or changed. */
  async end(timeoutMs: number): Promise<void> {
    const { code, stdout, stderr } = await this.source.end(timeoutMs);
    if (code !== 0) throw new Error(`the stream broke: ${stdout}${stderr}`);
    await this.#sink.end();
  }
}

/** Starts a checksummed stream of `rate` bytes a second for `seconds`; does not wait. */
export async function beginStream(
  net: Net,
  from: string,
  to: string,
  address: string,
  seconds: number,
  rate = 200_000,
  port = 5001,
): Promise<Stream> {
  const script = application('stream');
  const sink = net.start(to, process.execPath, [script, 'sink', address, String(port)]);
  await sink.says(/ready/);
  const target = [address, String(port), String(seconds), String(rate)];
  return new Stream(net.start(from, process.execPath, [script, 'source', ...target]), sink);
}

/** The same, and waits until it flows. */
export async function startStream(...args: Parameters<typeof beginStream>): Promise<Stream> {
  return (await beginStream(...args)).flows();
}

/** Moves data over TCP for `seconds`; returns bytes received. `reverse`: from `to` to `from`. */
export async function transfer(
  net: Net,
  from: string,
  to: string,
  address: string,
  { seconds = 2, reverse = false }: { seconds?: number; reverse?: boolean } = {},
): Promise<number> {
  const server = net.start(to, 'iperf3', ['-s', '-1', '-B', address, '--forceflush']);
  await server.says(/listening/);
  const args = ['-c', address, '-t', String(seconds), '-J', ...(reverse ? ['-R'] : [])];
  const report = JSON.parse(
    await net.must(from, 'iperf3', args, { timeoutMs: (seconds + 20) * 1_000 }),
  ) as { end: { sum_received: { bytes: number } } };
  await server.end();
  return report.end.sum_received.bytes;
}

/** Sends datagrams from a host by commands of datagrams.mjs; returns what came back. */
export async function sendDatagrams(
  net: Net,
  host: string,
  address: string,
  port: number,
  commands: readonly string[],
): Promise<{ sent: number; received: number }> {
  const args = [application('datagrams'), address, String(port)];
  const input = `${commands.join('\n')}\n`;
  const text = await net.must(host, process.execPath, args, { input, timeoutMs: 60_000 });
  const found = /done (\d+) (\d+)/.exec(text);
  return { sent: Number(found?.[1]), received: Number(found?.[2]) };
}

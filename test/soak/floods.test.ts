/**
 * Floods beside a transfer, from 4,194,304 source addresses: handshakes that look right to who
 * knows the server's public key, and garbage. Generator, server, clients and the transfer share the
 * cores of this machine; the figures, with the rate that was really sent, are printed.
 * CULVERT_FLOOD_SECONDS says how long each lasts (default 30).
 *
 *   a   eth0 10.77.1.2 ---- 10.77.1.1 s1 \
 *   b   eth0 10.77.2.2 ---- 10.77.2.1 s2 - server, tun 192.168.1.1
 *   eve eth0 10.77.3.2 ---- 10.77.3.1 s3 /
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { inNet, type Net } from '../netns/harness.ts';
import type { Program } from '../netns/program.ts';
import { layStar, legAddress, serverAddress } from '../netns/topology.ts';
import { Client, drops, PORT, Server, type ServerStatus } from '../netns/vpn.ts';
import { delay } from '../netns/waiting.ts';
import { le32, stamp } from '../wire/messages.ts';
import { join as concat, keyOf, random } from '../wire/primitives.ts';

const SECONDS = Number(process.env.CULVERT_FLOOD_SECONDS ?? 30);
/** Of the transfer, megabits a second: what two cores carry without a flood with room left. */
const TRANSFER = 100;
const SOURCES = '100.64.0.0';
const GROWTH_KILOBYTES = 30_000;
const HERE = fileURLToPath(new URL('.', import.meta.url));

interface Stage {
  readonly net: Net;
  readonly server: Server;
  readonly flood: (name: 'handshakes' | 'garbage', rate: number) => Program;
  /** Lines of loop-delay.mjs so far. */
  readonly lateness: () => readonly { readonly p99: number }[];
}

/** A file of datagrams as flood.c reads it. */
function writeRecords(file: string, datagrams: readonly Uint8Array[]): void {
  const parts = datagrams.map((d) => concat(Uint8Array.of(d.length & 255, d.length >> 8), d));
  writeFileSync(file, concat(...parts));
}

async function onStage(body: (stage: Stage) => Promise<void>): Promise<void> {
  await inNet(['server', 'a', 'b', 'eve'], async (net) => {
    layStar(net, ['a', 'b', 'eve']);
    net.ip('server', 'route', 'add', `${SOURCES}/10`, 'via', legAddress(3));
    const file = (name: string) => join(net.directory, name);
    execFileSync('cc', ['-O2', '-o', file('flood'), join(HERE, 'flood.c')]);
    writeFileSync(file('late'), '');
    process.env.CULVERT_LOOP_DELAY = file('late');
    process.env.NODE_OPTIONS = `--import=${join(HERE, 'loop-delay.mjs')}`;
    const server = await new Server(net).start().finally(() => {
      delete process.env.NODE_OPTIONS;
    });
    const { publicKey } = await server.json<{ publicKey: string }>('status');
    const key = keyOf(publicKey);
    const numbers = Array.from({ length: 4096 }, (_, i) => i);
    const handshake = () => stamp(concat(le32(1), random(112)), key, null);
    writeRecords(file('handshakes'), numbers.map(handshake));
    const garbage = (i: number) =>
      i % 2 ? random(1 + (i % 300)) : concat(le32(1 + ((i >> 1) % 4)), random(28 + (i % 120)));
    writeRecords(file('garbage'), numbers.map(garbage));
    await body({
      net,
      server,
      flood: (name, rate) => {
        const to = [String(SECONDS), serverAddress(3), String(PORT), SOURCES];
        return net.start('eve', file('flood'), [file(name), String(rate), ...to]);
      },
      lateness: () => {
        const lines = readFileSync(file('late'), 'utf8').split('\n').filter(Boolean);
        return lines.map((line) => JSON.parse(line));
      },
    });
    net.ip('server', 'route', 'del', `${SOURCES}/10`);
  });
}

/** Megabits a second that arrive of TRANSFER from a. */
async function transfer(net: Net, seconds: number): Promise<number> {
  const sink = net.start('server', 'iperf3', ['-s', '-1', '-B', '192.168.1.1', '--forceflush']);
  await sink.says(/listening/);
  const args = ['-c', '192.168.1.1', '-t', String(seconds), '-b', `${TRANSFER}M`, '-J'];
  const text = await net.must('a', 'iperf3', args, { timeoutMs: (seconds + 30) * 1_000 });
  await sink.end();
  const report = JSON.parse(text) as { end: { sum_received: { bits_per_second: number } } };
  return Math.round(report.end.sum_received.bits_per_second / 1e6);
}

/** Without pages of program files, which come and go. */
function resident(server: Server): number {
  const status = readFileSync(`/proc/${server.program?.pid ?? 0}/status`, 'utf8');
  return Number(/^RssAnon:\s+(\d+)/m.exec(status)?.[1]);
}

/** Packets that came back to where the flood comes from: cookie replies. */
async function answered(net: Net): Promise<number> {
  const text = await net.must('eve', 'ip', ['-json', '-s', 'link', 'show', 'dev', 'eth0']);
  const [link] = JSON.parse(text) as [{ stats64: { rx: { packets: number } } }];
  return link.stats64.rx.packets;
}

/** Datagrams a second that a flood really sent. */
async function rateOf(flood: Program): Promise<number> {
  const { stdout } = await flood.end((SECONDS + 30) * 1_000);
  const [, sent, seconds] = /sent (\d+) seconds ([\d.]+)/.exec(stdout) ?? [];
  return Math.round(Number(sent) / Number(seconds));
}

/** What was dropped, by reason. */
function dropped(status: ServerStatus): Record<string, number> {
  const all = Object.keys(status.drops).map((reason) => [reason, drops(status, reason)] as const);
  return Object.fromEntries(all.filter(([, count]) => count > 0));
}

test('50,000 handshakes a second: a transfer keeps 80 %, a new client gets in, memory is flat', async () => {
  await onStage(async ({ net, server, flood, lateness }) => {
    await new Client(net, 'a').enrol(await server.invite('a', 1));
    const invite = await server.invite('b', 2);
    const calm = await transfer(net, 3);
    const kilobytes = resident(server);
    const flooding = flood('handshakes', 50_000);
    const carried = transfer(net, SECONDS - 1);
    await delay(1_000);
    const began = performance.now();
    expect(await new Client(net, 'b').enrol(invite)).toBe('192.168.1.3');
    const entered = Math.round(performance.now() - began) / 1_000;
    const under = await carried;
    const rate = await rateOf(flooding);
    const growth = resident(server) - kilobytes;
    const cookies = await answered(net);
    const figures = { rate, cookies, calm, under, entered, growth, lateness: lateness() };
    console.log('handshakes:', JSON.stringify({ ...figures, ...dropped(await server.status()) }));
    // Else the server was never under load, and all this shows nothing.
    expect(cookies).toBeGreaterThan(SECONDS * 5_000);
    expect(under / calm).toBeGreaterThanOrEqual(0.8);
    expect(entered).toBeLessThan(15);
    expect(growth).toBeLessThan(GROWTH_KILOBYTES);
    expect(await net.reaches('b', '192.168.1.1')).toBe(true);
  });
});

test('200,000 datagrams of garbage a second: the event loop is late by less than 50 ms', async () => {
  await onStage(async ({ net, server, flood, lateness }) => {
    await new Client(net, 'a').enrol(await server.invite('a', 1));
    await delay(5_000); // the start itself
    const before = { kilobytes: resident(server), lines: lateness().length };
    const rate = await rateOf(flood('garbage', 200_000));
    const growth = resident(server) - before.kilobytes;
    await delay(5_000);
    const during = lateness().slice(before.lines);
    const figures = { rate, growth, during, ...dropped(await server.status()) };
    console.log('garbage:', JSON.stringify(figures));
    expect(during.length).toBeGreaterThan(0);
    for (const { p99 } of during) expect(p99).toBeLessThan(50);
    expect(growth).toBeLessThan(GROWTH_KILOBYTES);
    expect(await net.reaches('a', '192.168.1.1')).toBe(true);
  });
});

import { beforeEach, describe, expect, it } from 'vitest';
import { Exchange } from '../../shared/control/exchange.ts';
import { type ControlAnswer, frameMessage, Reassembler } from '../../shared/control/messages.ts';

/** Two ends; frames are collected and delivered by hand. */
class End {
  readonly sent: Uint8Array[] = [];
  readonly exchange: Exchange;
  usable = true;

  constructor(seed: number) {
    this.exchange = new Exchange({
      send: (frame) => {
        if (this.usable) this.sent.push(frame);
        return this.usable;
      },
      random: (n) => new Uint8Array(n).fill(seed),
    });
  }

  take(): Uint8Array[] {
    return this.sent.splice(0);
  }
}

const leased = (id: number): ControlAnswer => ({
  ...{ type: 'leased', id, address: '10.0.0.2', prefixLength: 24, serverAddress: '10.0.0.1' },
  ...{ mtu: 1420, keepalive: 25, routes: [], dns: [], domains: [], full: false },
});

describe('Exchange', () => {
  let client: End;
  let server: End;
  beforeEach(() => {
    client = new End(1);
    server = new End(2);
  });

  /** Passes frames to an end; what came out for its caller. */
  const deliver = (to: End, frames: Uint8Array[], now = 0) =>
    frames.map((frame) => to.exchange.receive(frame, now)).filter((incoming) => incoming !== null);

  it('takes a request there and its answer back', () => {
    const id = client.exchange.request({ type: 'lease' }, 0);
    const [incoming] = deliver(server, client.take());
    expect(incoming).toEqual({ type: 'request', request: { type: 'lease', id } });
    server.exchange.answer(leased(id));
    expect(deliver(client, server.take())).toEqual([{ type: 'answer', id, answer: leased(id) }]);
    expect(client.exchange.tick(100_000)).toEqual([]);
    expect(client.take()).toEqual([]);
  });

  it('sends again after 1, 2, 4 and 4 s, then gives up', () => {
    const id = client.exchange.request({ type: 'lease' }, 0);
    const first = client.take();
    const times: number[] = [];
    let failedAt = -1;
    for (let now = 0; now <= 20_000; now += 250) {
      if (client.exchange.tick(now).includes(id)) failedAt = now;
      const frames = client.take();
      if (frames.length > 0) {
        times.push(now);
        expect(frames).toEqual(first);
      }
    }
    expect(times).toEqual([1000, 3000, 7000, 11_000]);
    expect(failedAt).toBe(15_000);
  });

  it('answers a repeat with the stored answer, without asking the caller again', () => {
    const id = client.exchange.request({ type: 'lease' }, 0);
    const request = client.take();
    expect(deliver(server, request)).toHaveLength(1);
    server.exchange.answer(leased(id));
    const answer = server.take();
    expect(deliver(server, request, 1000)).toEqual([]);
    expect(server.take()).toEqual(answer);
    expect(server.exchange.counters.repeated).toBe(1);
  });

  it('passes a repeat on once only while its answer is pending', () => {
    client.exchange.request({ type: 'lease' }, 0);
    const request = client.take();
    expect(deliver(server, [...request, ...request])).toHaveLength(1);
    expect(server.take()).toEqual([]);
  });

  it('delivers an answer once', () => {
    const id = client.exchange.request({ type: 'lease' }, 0);
    const frames = frameMessage(leased(id), id);
    expect(deliver(client, [...frames, ...frames])).toHaveLength(1);
  });

  it('ignores answers that nothing was asked for', () => {
    expect(deliver(client, frameMessage(leased(77), 77))).toEqual([]);
  });

  it('answers at most ten requests a second, repeats included', () => {
    const frame = frameMessage({ type: 'lease', id: 5 }, 5);
    expect(deliver(server, frame, 50_000)).toHaveLength(1);
    server.exchange.answer(leased(5));
    for (let i = 0; i < 99; i += 1) deliver(server, frame, 50_000);
    expect(server.take()).toHaveLength(10);
    expect(server.exchange.counters.rateLimited).toBe(90);
    for (let i = 0; i < 100; i += 1) deliver(server, frame, 51_000);
    expect(server.take()).toHaveLength(10);
  });

  it('keeps sending when the tunnel had no key at first', () => {
    client.usable = false;
    client.exchange.request({ type: 'lease' }, 0);
    client.usable = true;
    client.exchange.tick(1000);
    expect(client.take()).toHaveLength(1);
  });

  it('starts its ids at random, so that a restarted client is not taken for a repeat', () => {
    const restarted = new End(9);
    const a = client.exchange.request({ type: 'lease' }, 0);
    expect(restarted.exchange.request({ type: 'lease' }, 0)).not.toBe(a);
  });

  it('wraps ids at 2^32', () => {
    const last = new End(0xff);
    expect(last.exchange.request({ type: 'lease' }, 0)).toBe(0xffff_ffff);
    expect(last.exchange.request({ type: 'lease' }, 0)).toBe(0);
  });

  it('counts what is malformed or unknown and stays silent', () => {
    expect(deliver(server, [new Uint8Array([0xc0, 1]), new Uint8Array([0xc0, 9])])).toEqual([]);
    expect(server.exchange.counters).toMatchObject({ malformed: 1, ignored: 1 });
    expect(server.take()).toEqual([]);
  });

  it('says goodbye once', () => {
    expect(client.exchange.notify({ type: 'bye' })).toBe(true);
    expect(deliver(server, client.take())).toEqual([{ type: 'notice', notice: { type: 'bye' } }]);
    expect(client.exchange.tick(5000)).toEqual([]);
    expect(client.take()).toEqual([]);
  });

  it('sends frames that any reassembler reads', () => {
    const id = client.exchange.request({ type: 'lease' }, 0);
    const result = new Reassembler().add(client.take()[0]!, 0);
    expect(result).toEqual({ type: 'message', message: { type: 'lease', id } });
  });
});

/**
 * A server made of the wire peer and control frames: it lets one client in, answers its pings, and
 * sends it whatever the test wants, however wrong. It shares no code with vpn-server.
 */
import { generatePrivateKey, type PublicKey, publicKeyOf } from '../../keys/keypair.ts';
import { formatInvite } from '../../shared/control/invite.ts';
import { type ControlMessage, Reassembler } from '../../shared/control/messages.ts';
import type { Arrival } from '../wire/arrival.ts';
import { echo, type IpPacket } from '../wire/inner.ts';
import { WirePeer } from '../wire/peer.ts';
import { join, keyOf } from '../wire/primitives.ts';
import type { Session } from '../wire/session.ts';
import { monotonicMs, NamespaceSockets, type WireSocket } from '../wire/sockets.ts';
import { eventually } from './waiting.ts';

/** How a frame is written where it is to differ from what its body says. */
export interface FrameOptions {
  readonly version?: number;
  readonly number?: number;
  readonly part?: number;
  readonly total?: number;
  /** The length that the header claims. */
  readonly length?: number;
}

const PART_BYTES = 1190;

/** One control frame with `bytes` as its part. */
export function frame(bytes: Uint8Array, options: FrameOptions = {}): Uint8Array {
  const { version = 1, number = 1, part = 0, total = 1, length = bytes.length } = options;
  const header = Buffer.alloc(10);
  header.writeUInt8(0xc0, 0);
  header.writeUInt8(version, 1);
  header.writeUInt16LE(length, 2);
  header.writeUInt32LE(number, 4);
  header.writeUInt8(part, 8);
  header.writeUInt8(total, 9);
  return join(header, bytes);
}

/** A body in as many frames as it takes; `text` need not be JSON. */
export function frames(text: string | Uint8Array, number = 1): Uint8Array[] {
  const body = typeof text === 'string' ? new TextEncoder().encode(text) : text;
  const total = Math.ceil(body.length / PART_BYTES);
  return Array.from({ length: total }, (_, part) =>
    frame(body.subarray(part * PART_BYTES, (part + 1) * PART_BYTES), { number, part, total }),
  );
}

export class FalseServer {
  /** What the client said, in order. */
  readonly heard: ControlMessage[] = [];
  /** Echo requests that were answered. */
  pings = 0;
  readonly #sockets: NamespaceSockets;
  readonly #socket: WireSocket;
  /** What everybody gets who asks for one. */
  readonly #lease: object;
  readonly #privateKey = generatePrivateKey();
  readonly #inviteKey = generatePrivateKey();
  readonly #reassembler = new Reassembler();
  #peer: WirePeer | null = null;
  #session: Session | null = null;
  /** What was sent last, sealed. */
  #sealed: readonly Uint8Array[] = [];

  private constructor(sockets: NamespaceSockets, socket: WireSocket, lease: object) {
    this.#sockets = sockets;
    this.#socket = socket;
    this.#lease = lease;
  }

  /** Listens in a namespace; `lease` is what everybody gets who asks for one. */
  static async open(
    namespace: string,
    address: string,
    port: number,
    lease: object,
  ): Promise<FalseServer> {
    const sockets = new NamespaceSockets(namespace);
    const server = new FalseServer(sockets, await sockets.open(address, port), lease);
    server.#meet(publicKeyOf(server.#inviteKey));
    return server;
  }

  get invite(): string {
    const { address, port } = this.#socket.local;
    return formatInvite({
      endpoints: [`${address}:${port}`],
      serverPublicKey: publicKeyOf(this.#privateKey),
      privateKey: this.#inviteKey,
      expires: Math.floor(Date.now() / 1000) + 600,
    });
  }

  /** Waits for a message of the client. */
  async hears<T extends ControlMessage['type']>(
    type: T,
    matches: (message: Extract<ControlMessage, { type: T }>) => boolean = () => true,
  ): Promise<Extract<ControlMessage, { type: T }>> {
    type Wanted = Extract<ControlMessage, { type: T }>;
    return eventually(`the client says ${type}`, 10_000, () =>
      this.heard.find((message): message is Wanted => {
        return message.type === type && matches(message as Wanted);
      }),
    );
  }

  /** Answers the enrolment of the client with `name`, and lets it come back with its own key. */
  async admit(name: string): Promise<void> {
    const { id, publicKey } = await this.hears('enrol');
    const own = keyOf(publicKey) as PublicKey;
    await this.say({ type: 'enrolled', id, name });
    this.#meet(own);
  }

  /** Sends a message, which need not be one, as JSON. */
  say(message: object): Promise<void> {
    return this.send(...frames(JSON.stringify(message)));
  }

  /** Seals and sends plaintexts. */
  async send(...plaintexts: readonly Uint8Array[]): Promise<void> {
    this.#sealed = plaintexts.map((bytes) => this.#session!.seal(bytes));
    await this.#peer!.send(...this.#sealed);
  }

  /** The datagrams of the last send(). */
  get lastSealed(): readonly Uint8Array[] {
    return this.#sealed;
  }

  /** Sends datagrams as they are. */
  async sendSealed(datagrams: readonly Uint8Array[]): Promise<void> {
    await this.#peer!.send(...datagrams);
  }

  close(): Promise<void> {
    return this.#sockets.close();
  }

  /** Answers whoever has this key. */
  #meet(remotePublic: PublicKey): void {
    const { local, send, close } = this.#socket;
    const peer: WirePeer = new WirePeer({
      socket: {
        ...{ local, send, close },
        receive: (take) =>
          this.#socket.receive((datagram) => {
            peer.remote = datagram.from;
            take(datagram);
            const arrival = peer.arrivals.at(-1)!;
            // A socket that is closed meanwhile is no matter.
            if (arrival.inner !== null) this.#take(peer, arrival).catch(() => {});
          }),
      },
      privateKey: this.#privateKey,
      remotePublic,
      remote: { address: '0.0.0.0', port: 0 },
      answers: true,
    });
    this.#peer = peer;
  }

  async #take(peer: WirePeer, { session, inner }: Arrival): Promise<void> {
    this.#session = session;
    if (inner!.kind === 'control') {
      const parsed = this.#reassembler.add(inner!.bytes, monotonicMs());
      if (parsed.type !== 'message') return;
      this.heard.push(parsed.message);
      const { message } = parsed;
      if (message.type === 'lease') {
        await this.say({ ...this.#lease, type: 'leased', id: message.id });
      }
    } else if (inner!.kind === 'v4' && inner!.protocol === 1 && inner!.payload[0] === 8) {
      await peer.sendData(session!, this.#echoReply(inner as IpPacket));
      this.pings += 1;
    }
  }

  #echoReply({ source, destination, payload }: IpPacket): Uint8Array {
    const view = Buffer.from(payload);
    const [id, sequence] = [view.readUInt16BE(4), view.readUInt16BE(6)];
    return echo(destination, source, id, sequence, payload.slice(8), { reply: true });
  }
}

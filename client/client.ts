/**
 * The running client: makes every part, connects them, keeps the tick, and takes all of it down
 * again. The only file of the client that constructs things; what to do next is decided in
 * connection.ts.
 */
import type { Interface, PeerId } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import { randomBytes } from '../shared/noise/crypto.ts';
import { asVpnError } from '../shared/program.ts';
import { Engine, type EngineEvent, TICK_MS } from '../shared/session/engine.ts';
import { acquireInstanceLock, type InstanceLock } from '../shared/system/instance-lock.ts';
import { type LocalSocket, serveLocalSocket } from '../shared/system/local-socket.ts';
import { offerWireguardSocket, type WireguardSocket } from '../shared/uapi/socket.ts';
import type { ClientOptions } from './client-options.ts';
import type { ConnectionState } from './connection.ts';
import { Dns, dnsOptions, dnsText, dnsWish } from './dns.ts';
import { logEvent } from './event-log.ts';
import { type ClientHost, defaultDevice } from './host.ts';
import { HostSide } from './host-side.ts';
import { DEFAULT_MTU, innerAddresses, type Network } from './lease.ts';
import { OtherPeers } from './other-peers.ts';
import type { TunnelPlan } from './plan.ts';
import { TimestampFile } from './profile-store.ts';
import { resolveEndpoints } from './resolve.ts';
import { type HostAction, ServerLink } from './server-link.ts';
import { type ClientStatus, describe } from './status.ts';
import { TunnelMtu } from './tunnel-mtu.ts';
import { Underlay } from './underlay.ts';

/** The server's peer id; other peers of a profile file come after it. */
const SERVER = 1 as PeerId;

export class Client {
  /** Settles when the client has stopped: null, or why it had to. */
  readonly stopped: Promise<VpnError | null>;
  readonly #options: ClientOptions;
  readonly #host: ClientHost;
  readonly #link: ServerLink;
  readonly #engine: Engine;
  #opened: Interface | null = null;
  #hostSide: HostSide | null = null;
  #dns: Dns | null = null;
  #others: OtherPeers | null = null;
  readonly #underlay: Underlay;
  readonly #mtu: TunnelMtu;
  #wireguardSocket: WireguardSocket | null = null;
  #lock: InstanceLock | null = null;
  #socket: LocalSocket | null = null;
  #timer: NodeJS.Timeout | null = null;
  /** RFC 3339; null until connected. */
  #since: string | null = null;
  /** Work on the host's network, one piece after the other. */
  #work: Promise<void> = Promise.resolve();
  #takingDown: Promise<void> | null = null;
  #stopping = false;
  #settle: (reason: VpnError | null) => void = () => {};

  /** Errors: those of reading our own key. */
  constructor(options: ClientOptions, host: ClientHost) {
    this.#options = options;
    this.#host = host;
    this.#link = this.#newLink();
    const stamps = new TimestampFile(this.#link.keys.folder);
    this.#engine = new Engine({
      dataPlane: host.dataPlane,
      clock: host.clock,
      random: randomBytes,
      privateKey: this.#link.privateKey,
      timestamps: { floor: stamps.read(), onUsed: (stamp) => stamps.keep(stamp, options.log) },
      onEvent: (event) => this.#onEvent(event),
    });
    this.#mtu = new TunnelMtu({
      run: host.run,
      mark: () => this.#hostSide?.mark ?? this.#link.plan.fwmark,
      log: options.log,
      now: () => host.clock.now(),
      // A server of a profile may be any WireGuard peer, to which a control frame is noise.
      probe: (size) => (this.#link.plan.network === null ? this.#link.control.probe(size) : null),
      onChange: () => this.#later(() => this.#apply()),
    });
    this.#underlay = new Underlay({
      run: host.run,
      device: () => this.#opened?.device ?? null,
      server: () => this.#link.outer[0] ?? null,
      mark: () => this.#hostSide?.mark ?? 0,
      onWay: (way, text) => this.#link.input({ type: 'way', way, text }),
      onDisturbed: () => this.#later(() => this.#restore()),
    });
    this.stopped = new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  /**
   * Opens device and sockets and begins to connect; `stopped` tells how it ends. Throws VpnError
   * for whatever is in the way, after taking down what was already made.
   */
  async start(): Promise<void> {
    try {
      await this.#open();
    } catch (error) {
      await this.#takeDown();
      await this.#release();
      throw error;
    }
    this.#underlay.start(this.#host.watch);
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    this.#link.input({ type: 'start' });
  }

  /** Says goodbye, undoes every change to the host and ends; idempotent. */
  async stop(reason: VpnError | null = null): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#link.close();
    let failure = reason;
    try {
      await this.#takeDown();
      await this.#release();
    } catch (cause) {
      failure ??= new VpnError('INTERNAL', 'the client could not stop cleanly', { cause });
    }
    this.#settle(failure);
  }

  status(): ClientStatus {
    if (this.#opened === null || this.#stopping) {
      throw new VpnError('NOT_RUNNING', 'the client is stopping');
    }
    return describe({
      tunnel: this.#options.place.tunnel,
      state: this.#link.state,
      opened: this.#opened,
      peer: this.#link.peer,
      network: this.#network,
      name: this.#link.keys.name,
      publicKey: this.#engine.publicKey,
      serverPublicKey: this.#link.plan.serverPublicKey,
      since: this.#since,
      dns: this.#dns?.state ?? null,
      netns: this.#options.traffic.netns,
      protection: this.#hostSide?.protection ?? null,
      clashes: this.#hostSide?.clashes ?? [],
      deviceDrops: this.#engine.device().drops,
    });
  }

  get state(): ConnectionState {
    return this.#link.state;
  }

  /** How the host's network is to look now; null while the lease is missing. */
  get #network(): Network | null {
    const { network } = this.#link;
    return network && this.#mtu.of(network);
  }

  async #open(): Promise<void> {
    const options = this.#options;
    const { plan, keys } = this.#link;
    this.#lock = acquireInstanceLock(keys.folder, 'client');
    this.#socket = await serveLocalSocket(options.place.socketPath, {
      status: () => this.status(),
      disconnect: () => this.#disconnect(),
      rotateKey: () => this.#link.rotation.start(this.#link.state),
    });
    const device = options.device ?? defaultDevice(keys.folder);
    const { log, traffic } = options;
    const { journalPath } = options.place;
    const { run, lookUp } = this.#host;
    const mark = plan.fwmark;
    const hostSide = new HostSide({ device, journalPath, traffic, mark, run, lookUp, log });
    this.#hostSide = hostSide;
    await hostSide.prepare(traffic.full !== 'no' || (plan.network?.defaults ?? []).length > 0);
    this.#opened = this.#engine.open({
      device,
      mtu: plan.network?.mtu ?? DEFAULT_MTU,
      listen: { port: options.localPort ?? plan.listenPort },
      fwmark: hostSide.mark,
      // Whatever a peer sends is for this host; forwarding is the kernel's business.
      clientToClient: 'kernel',
      addresses: innerAddresses(plan.network),
      ...options.carrier,
    });
    await hostSide.opened(this.#opened.port);
    this.#dns = new Dns(
      dnsOptions(device, this.#options.traffic.netns, hostSide.journal, this.#host.run),
    );
    this.#others = new OtherPeers({
      peers: plan.others,
      firstId: SERVER + 1,
      engine: this.#engine,
      resolve: (endpoint) => this.#resolve([endpoint]),
    });
    this.#others.start();
    this.#wireguardSocket = await offerWireguardSocket({
      name: this.#opened.device,
      engine: this.#engine,
      privateKey: () => this.#link.privateKey,
      listenPort: () => this.#opened?.port ?? 0,
      fwmark: hostSide.mark,
      changedBy: 'vpn-client connect',
      log,
    });
  }

  /** Undoes what others can see: routes, addresses, device. */
  #takeDown(): Promise<void> {
    this.#takingDown ??= (async () => {
      if (this.#timer !== null) clearInterval(this.#timer);
      this.#link.rotation.close();
      this.#underlay.close();
      if (this.#opened !== null && this.#link.peer?.connected) this.#link.control.goodbye();
      await this.#work;
      await this.#hostSide?.undo();
      this.#engine.close();
      await this.#wireguardSocket?.close();
    })();
    return this.#takingDown;
  }

  async #release(): Promise<void> {
    await this.#socket?.close();
    this.#lock?.release();
    this.#link.keys.tidy();
  }

  /** For `vpn-client disconnect`: answers when the host is as it was before. */
  async #disconnect(): Promise<{ readonly device: string | null }> {
    const device = this.#opened?.device ?? null;
    await this.#takeDown();
    setImmediate(() => void this.stop());
    return { device };
  }

  #tick(): void {
    this.#underlay.tick(this.#host.clock.now(), this.#host.monotonic());
    this.#engine.tick();
    this.#mtu.tick();
    this.#link.tick();
    this.#hostSide?.follow(this.#link.state);
  }

  #newLink(): ServerLink {
    const { target, store, timeoutMs, log, traffic } = this.#options;
    return new ServerLink({
      id: SERVER,
      ...{ target, store, timeoutMs, log },
      clock: this.#host.clock,
      full: traffic.full,
      engine: () => this.#engine,
      resolve: (endpoints) => this.#resolve(endpoints),
      allowedIps: (ranges, full) => this.#hostSide?.allowedIps(ranges, full) ?? ranges,
      onAction: (action) => this.#perform(action),
      onEstablished: (again) => {
        if (again) this.#probeMtu(true);
        void this.#underlay.remember();
      },
      onLeased: () => {
        if (this.#since !== null) this.#probeMtu(false);
      },
      onProbed: (id) => this.#mtu.answered(id),
    });
  }

  #perform(action: HostAction): void {
    switch (action.type) {
      case 'apply':
        this.#later(() => this.#apply());
        break;
      case 'check':
        this.#later(() => this.#check());
        break;
      case 'stage':
        this.#options.onStage(action.stage, action.text);
        break;
      case 'note':
        if (this.#since === null) this.#options.onNote(action.text);
        else this.#options.log[action.good ? 'info' : 'warn'](action.text);
        break;
      case 'ready':
        this.#ready();
        break;
      case 'fail':
        void this.stop(action.error);
        break;
      default:
        action satisfies never;
    }
  }

  #resolve(endpoints: TunnelPlan['endpoints']) {
    const { mark, lookUp } = this.#hostSide ?? { mark: 0, lookUp: this.#host.lookUp };
    return resolveEndpoints(endpoints, mark, lookUp, this.#host.run);
  }

  #onEvent(event: EngineEvent): void {
    const { log } = this.#options;
    switch (event.type) {
      case 'established':
        log.debug({ peer: event.peer, role: event.role }, 'session established');
        if (event.peer === SERVER) this.#link.onEvent(event);
        break;
      case 'attempt':
      case 'gaveUp':
      case 'control':
        if (event.peer === SERVER) this.#link.onEvent(event);
        else if (event.type === 'gaveUp') this.#others?.gaveUp(event.peer);
        break;
      case 'refused':
      case 'roamed':
      case 'expired':
      case 'fallback':
        logEvent(event, log);
        break;
      case 'fault':
        // Also what becomes of a device whose namespace we have just removed.
        if (this.#takingDown !== null) break;
        void this.stop(
          new VpnError('DEVICE_LOST', `the ${event.where} failed (errno ${event.errno})`),
        );
        break;
      default:
        event satisfies never;
    }
  }

  #later(piece: () => Promise<void>): void {
    this.#work = this.#work.then(async () => {
      if (this.#stopping || this.#takingDown !== null) return;
      try {
        await piece();
      } catch (error) {
        const known = asVpnError(error, 'vpn-client');
        if (this.#since === null) void this.stop(known);
        else this.#options.log.error({ err: known }, 'the network could not be changed');
      }
    });
  }

  async #apply(): Promise<void> {
    const network = this.#network;
    if (network === null) return;
    await this.#link.leases.inForce(async () => {
      this.#link.setPeer();
      this.#engine.configure({ mtu: network.mtu, addresses: innerAddresses(network) });
      await this.#hostSide?.apply({ network, full: this.#link.full, endpoints: this.#link.outer });
      this.#link.input({ type: 'applied', text: network.addresses.join(', ') || 'none' });
      return this.#applyDns();
    });
    // Nobody waits for servers that may not answer, but at the start.
    if (this.#since !== null) void this.#checkNames();
  }

  /** `again`: over a new way, even when nothing else changed. */
  #probeMtu(again: boolean): void {
    const wish = this.#link.network?.mtu ?? DEFAULT_MTU;
    void this.#mtu.start(wish, this.#link.outer[0] ?? null, again);
  }

  /** Result: what does not work of it. */
  async #applyDns(): Promise<string[]> {
    const all = this.#link.full || this.#options.traffic.netns !== null;
    const { leases, plan } = this.#link;
    const state = await this.#dns?.apply(dnsWish(leases.lease?.dns, plan.dns, all));
    return state?.problem ? [`name servers: ${state.problem}`] : [];
  }

  async #checkNames(): Promise<void> {
    const state = await this.#dns?.verify();
    if (!state) return;
    if (state.problem === null) this.#link.input({ type: 'named', text: dnsText(state) });
    else this.#link.input({ type: 'unnamed', text: `${dnsText(state)}: ${state.problem}` });
  }

  /** Puts back what somebody took from our own device. */
  async #restore(): Promise<void> {
    if (this.#since !== null) await this.#hostSide?.networkChanged(this.#link.outer);
  }

  async #check(): Promise<void> {
    const network = this.#network;
    if (network === null) return;
    await this.#checkNames();
    await this.#hostSide?.check(network, this.#link.outer[0] ?? null);
    const whom = network.serverAddress ?? 'the network';
    this.#link.input({ type: 'checked', text: `${whom} through ${this.#opened?.device}` });
  }

  #ready(): void {
    this.#since = new Date(this.#host.clock.wall().seconds * 1000).toISOString();
    this.#probeMtu(true);
    this.#options.onReady(this.status());
  }
}

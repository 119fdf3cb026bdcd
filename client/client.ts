/**
 * The running client: makes every part, connects them, keeps the tick, and takes all of it down
 * again. The only file of the client that constructs things; what to do next is decided in
 * connection.ts.
 */
import { keyToBase64, publicKeyOf } from '../keys/keypair.ts';
import type { Interface, PeerId } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import { randomBytes } from '../shared/noise/crypto.ts';
import { asVpnError } from '../shared/program.ts';
import { Engine, type EngineEvent, TICK_MS } from '../shared/session/engine.ts';
import { acquireInstanceLock, type InstanceLock } from '../shared/system/instance-lock.ts';
import { type LocalSocket, serveLocalSocket } from '../shared/system/local-socket.ts';
import { offerWireguardSocket, type WireguardSocket } from '../shared/uapi/socket.ts';
import type { ClientOptions } from './client-options.ts';
import {
  type Action,
  Connection,
  type ConnectionState,
  type Identity,
  type Input,
} from './connection.ts';
import { Control, type ControlNews } from './control.ts';
import { Dns, dnsOptions, dnsText, dnsWish } from './dns.ts';
import { logEvent } from './event-log.ts';
import { type ClientHost, defaultDevice } from './host.ts';
import { HostSide } from './host-side.ts';
import { DEFAULT_MTU, innerAddresses, type Network } from './lease.ts';
import { LeaseKeeper } from './lease-keeper.ts';
import { OtherPeers } from './other-peers.ts';
import { OwnKeys } from './own-keys.ts';
import { planTunnel, type TunnelPlan } from './plan.ts';
import { TimestampFile } from './profile-store.ts';
import { resolveEndpoints } from './resolve.ts';
import { Rotation } from './rotation.ts';
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
  readonly #plan: TunnelPlan;
  readonly #connection: Connection;
  readonly #control: Control;
  readonly #engine: Engine;
  readonly #keys: OwnKeys;
  readonly #rotation: Rotation;
  #identity: Identity;
  readonly #leases: LeaseKeeper;
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
  /** Inputs wait here until the actions of the one before are done. */
  readonly #inputs: Input[] = [];
  #handling = false;
  /** Work on the host's network, one piece after the other. */
  #work: Promise<void> = Promise.resolve();
  #takingDown: Promise<void> | null = null;
  #stopping = false;
  #settle: (reason: VpnError | null) => void = () => {};

  /** Errors: those of reading our own key. */
  constructor(options: ClientOptions, host: ClientHost) {
    const { target, store } = options;
    this.#options = options;
    this.#host = host;
    this.#plan = planTunnel(target);
    this.#keys = new OwnKeys(target, store);
    this.#identity = this.#keys.first;
    const { endpoints, identity, network } = this.#plan;
    const { timeoutMs } = options;
    this.#connection = new Connection({ endpoints, identity, lease: network === null, timeoutMs });
    const stamps = new TimestampFile(this.#keys.folder);
    this.#engine = new Engine({
      dataPlane: host.dataPlane,
      clock: host.clock,
      random: randomBytes,
      privateKey: this.#keys.keyOf(this.#identity),
      timestamps: { floor: stamps.read(), onUsed: (stamp) => stamps.keep(stamp, options.log) },
      onEvent: (event) => this.#onEvent(event),
    });
    this.#control = new Control({
      clock: host.clock,
      random: randomBytes,
      send: (frame) => this.#engine.sendControl(SERVER, frame),
    });
    this.#mtu = new TunnelMtu({
      run: host.run,
      mark: () => this.#hostSide?.mark ?? this.#plan.fwmark,
      log: options.log,
      now: () => host.clock.now(),
      // A server of a profile may be any WireGuard peer, to which a control frame is noise.
      probe: (size) => (this.#plan.network === null ? this.#control.probe(size) : null),
      onChange: () => this.#later(() => this.#apply()),
    });
    this.#underlay = new Underlay({
      run: host.run,
      device: () => this.#opened?.device ?? null,
      server: () => this.#outer[0] ?? null,
      mark: () => this.#hostSide?.mark ?? 0,
      onWay: (way, text) => this.#input({ type: 'way', way, text }),
      onDisturbed: () => this.#later(() => this.#restore()),
    });
    this.#leases = new LeaseKeeper({
      control: this.#control,
      log: options.log,
      endpoint: () => this.#outer[0] ?? null,
      full: options.traffic.full !== 'no',
    });
    this.#rotation = new Rotation({
      keys: this.#keys,
      request: (publicKey) => this.#control.rotate(publicKey),
      onNoted: () => this.#input({ type: 'rotating' }),
      onDone: () => {
        this.#identity = 'own';
        this.#input({ type: 'rotated' });
      },
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
    this.#input({ type: 'start' });
  }

  /** Says goodbye, undoes every change to the host and ends; idempotent. */
  async stop(reason: VpnError | null = null): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
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
      state: this.#connection.state,
      opened: this.#opened,
      peer: this.#engine.peer(SERVER),
      network: this.#network,
      name: this.#keys.name,
      publicKey: this.#engine.publicKey,
      serverPublicKey: this.#plan.serverPublicKey,
      since: this.#since,
      dns: this.#dns?.state ?? null,
      netns: this.#options.traffic.netns,
      protection: this.#hostSide?.protection ?? null,
      clashes: this.#hostSide?.clashes ?? [],
      deviceDrops: this.#engine.device().drops,
    });
  }

  get state(): ConnectionState {
    return this.#connection.state;
  }

  /** Everything goes through the tunnel. */
  get #full(): boolean {
    return this.#options.traffic.full === 'yes' || this.#leases.lease?.full === true;
  }

  /** Outer addresses of the server, as far as they are known. */
  get #outer(): string[] {
    const endpoint = this.#engine.peer(SERVER)?.endpoint;
    return endpoint ? [endpoint.address] : [];
  }

  /** How the host's network is to look now; null while the lease is missing. */
  get #network(): Network | null {
    const network = this.#leases.lease?.network ?? this.#plan.network;
    return network && this.#mtu.of(network);
  }

  async #open(): Promise<void> {
    const options = this.#options;
    const plan = this.#plan;
    this.#lock = acquireInstanceLock(this.#keys.folder, 'client');
    this.#socket = await serveLocalSocket(options.place.socketPath, {
      status: () => this.status(),
      disconnect: () => this.#disconnect(),
      rotateKey: () => this.#rotation.start(this.#connection.state),
    });
    const device = options.device ?? defaultDevice(this.#keys.folder);
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
      privateKey: () => this.#keys.keyOf(this.#identity),
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
      this.#rotation.close();
      this.#underlay.close();
      if (this.#opened !== null && this.#engine.peer(SERVER)?.connected) this.#control.goodbye();
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
    this.#keys.tidy();
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
    if (this.#control.tick()) this.#input({ type: 'unanswered' });
    this.#input({ type: 'tick' });
    this.#hostSide?.follow(this.#connection.state);
  }

  #input(input: Input): void {
    this.#inputs.push(input);
    if (this.#handling) return;
    this.#handling = true;
    try {
      for (let next = this.#inputs.shift(); next !== undefined; next = this.#inputs.shift()) {
        const actions = this.#connection.handle(next, this.#host.clock.now());
        for (const action of actions) if (!this.#stopping) this.#perform(action);
      }
    } catch (error) {
      void this.stop(asVpnError(error, 'vpn-client'));
    } finally {
      this.#handling = false;
    }
  }

  #perform(action: Action): void {
    switch (action.type) {
      case 'resolve':
        void this.#resolve(this.#plan.endpoints).then((resolution) =>
          this.#input({ type: 'resolved', resolution }),
        );
        break;
      case 'aim':
        this.#become(action.identity);
        this.#setServerPeer(action.endpoint);
        this.#engine.connect(SERVER);
        break;
      case 'knock':
        this.#engine.connect(SERVER);
        break;
      case 'request':
        if (action.request === 'lease') this.#control.lease();
        else this.#control.enrol(keyToBase64(publicKeyOf(this.#keys.beginEnrolment())));
        break;
      case 'keep':
        this.#keys.completeEnrolment(action.name);
        break;
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

  #become(identity: Identity): void {
    if (identity === this.#identity) return;
    this.#identity = identity;
    this.#engine.setPrivateKey(this.#keys.keyOf(identity));
    this.#control.reset();
  }

  /** `endpoint` absent: it stays as it is. */
  #setServerPeer(endpoint?: { readonly address: string; readonly port: number }): void {
    const { serverPublicKey, presharedKey, allowedIps, keepalive } = this.#plan;
    const ranges = this.#leases.lease?.allowedIps ?? allowedIps;
    const wantedKeepalive = this.#leases.lease?.keepalive ?? keepalive;
    this.#engine.setPeer(SERVER, {
      publicKey: serverPublicKey,
      ...(presharedKey ? { presharedKey } : {}),
      ...(endpoint ? { endpoint } : {}),
      allowedIps: this.#hostSide?.allowedIps(ranges, this.#full) ?? ranges,
      // Not before there is a key: a keepalive without one would start a handshake of its own,
      // and connect() a second one within the time in which the server refuses it.
      persistentKeepalive: this.#since === null && endpoint ? 0 : wantedKeepalive,
    });
  }

  #onEvent(event: EngineEvent): void {
    const { log } = this.#options;
    switch (event.type) {
      case 'attempt':
        if (event.peer === SERVER) this.#input({ type: 'attempt' });
        break;
      case 'established':
        log.debug({ peer: event.peer, role: event.role }, 'session established');
        if (event.peer !== SERVER) break;
        if (this.#connection.state === 'reconnecting') this.#probeMtu(true);
        this.#input({ type: 'established', endpoint: event.endpoint });
        void this.#underlay.remember();
        break;
      case 'gaveUp':
        if (event.peer === SERVER) this.#input({ type: 'gaveUp' });
        else this.#others?.gaveUp(event.peer);
        break;
      case 'control':
        if (event.peer === SERVER) this.#hear(this.#control.receive(event.bytes));
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

  #hear(news: ControlNews | null): void {
    if (news?.type === 'probed') this.#mtu.answered(news.id);
    if (news === null || news.type === 'probed') return;
    if (news.type === 'bye') this.#control.reset();
    const enrolmentRefused = news.type === 'refused' && this.#identity === 'invite';
    // Trouble of the server's own may pass, and then the same key is good.
    if (enrolmentRefused && news.reason !== 'serverError') this.#keys.abandonEnrolment();
    if (news.type === 'rotating' || news.type === 'rotationRefused') {
      this.#rotation.hear(news);
      return;
    }
    if (news.type !== 'leased') {
      this.#input(news);
      return;
    }
    const refusal = this.#leases.take(news);
    if (refusal !== null) {
      const message = `the lease of the server is refused: ${refusal}`;
      if (this.#since !== null) this.#options.log.warn(message);
      else if (!news.receipt.isPush) void this.stop(new VpnError('LEASE_UNACCEPTABLE', message));
      return;
    }
    // Whoever leases to our own key knows it, even when the answer to the enrolment was lost.
    this.#keys.completeEnrolment(null);
    this.#rotation.leased(this.#identity);
    this.#input({ type: 'leased' });
    if (this.#since !== null) this.#probeMtu(false);
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
    await this.#leases.inForce(async () => {
      this.#setServerPeer();
      this.#engine.configure({ mtu: network.mtu, addresses: innerAddresses(network) });
      await this.#hostSide?.apply({ network, full: this.#full, endpoints: this.#outer });
      this.#input({ type: 'applied', text: network.addresses.join(', ') || 'none' });
      return this.#applyDns();
    });
    // Nobody waits for servers that may not answer, but at the start.
    if (this.#since !== null) void this.#checkNames();
  }

  /** `again`: over a new way, even when nothing else changed. */
  #probeMtu(again: boolean): void {
    const wish = (this.#leases.lease?.network ?? this.#plan.network)?.mtu ?? DEFAULT_MTU;
    void this.#mtu.start(wish, this.#engine.peer(SERVER)?.endpoint?.address ?? null, again);
  }

  /** Result: what does not work of it. */
  async #applyDns(): Promise<string[]> {
    const all = this.#full || this.#options.traffic.netns !== null;
    const state = await this.#dns?.apply(dnsWish(this.#leases.lease?.dns, this.#plan.dns, all));
    return state?.problem ? [`name servers: ${state.problem}`] : [];
  }

  async #checkNames(): Promise<void> {
    const state = await this.#dns?.verify();
    if (!state) return;
    if (state.problem === null) this.#input({ type: 'named', text: dnsText(state) });
    else this.#input({ type: 'unnamed', text: `${dnsText(state)}: ${state.problem}` });
  }

  /** Puts back what somebody took from our own device. */
  async #restore(): Promise<void> {
    if (this.#since !== null) await this.#hostSide?.networkChanged(this.#outer);
  }

  async #check(): Promise<void> {
    const network = this.#network;
    if (network === null) return;
    await this.#checkNames();
    await this.#hostSide?.check(network, this.#outer[0] ?? null);
    const whom = network.serverAddress ?? 'the network';
    this.#input({ type: 'checked', text: `${whom} through ${this.#opened?.device}` });
  }

  #ready(): void {
    this.#since = new Date(this.#host.clock.wall().seconds * 1000).toISOString();
    this.#probeMtu(true);
    this.#options.onReady(this.status());
  }
}

/**
 * The running client: makes every part, connects them, keeps the tick, and takes all of it down
 * again. The only file of the client that constructs things; what to do next is decided in
 * connection.ts.
 */
import type { Interface } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import { randomBytes } from '../shared/node-crypto.ts';
import { compareTai64n } from '../shared/noise/tai64n.ts';
import { asVpnError } from '../shared/program.ts';
import { Engine, type EngineEvent, TICK_MS } from '../shared/session/engine.ts';
import { acquireInstanceLock, type InstanceLock } from '../shared/system/instance-lock.ts';
import type { LocalSocket } from '../shared/system/local-socket.ts';
import { offerWireguardSocket, type WireguardSocket } from '../shared/uapi/socket.ts';
import { serveBesideCleanup } from './cleanup-lock.ts';
import type { ClientOptions } from './client-options.ts';
import { stillClosed } from './closures.ts';
import type { ConnectionState } from './connection.ts';
import { Dns, dnsOptions, dnsText, dnsWish } from './dns.ts';
import { logEvent } from './event-log.ts';
import { type ClientHost, defaultDevice } from './host.ts';
import { HostSide } from './host-side.ts';
import { DEFAULT_MTU, innerAddresses, type Network } from './lease.ts';
import { OtherPeers } from './other-peers.ts';
import { ownerMark } from './place.ts';
import type { TunnelPlan } from './plan.ts';
import { TimestampFile } from './profile-store.ts';
import { resolveEndpoints } from './resolve.ts';
import { findRunning } from './running.ts';
import { type HostAction, ServerLink } from './server-link.ts';
import { type LinkStart, Servers } from './servers.ts';
import { type ClientStatus, describe } from './status.ts';
import { TunnelMtu } from './tunnel-mtu.ts';
import { Underlay } from './underlay.ts';

export class Client {
  /** Settles when the client has stopped: null, or why it had to. */
  readonly stopped: Promise<VpnError | null>;
  readonly #options: ClientOptions;
  readonly #host: ClientHost;
  readonly #servers: Servers;
  readonly #engine: Engine;
  #opened: Interface | null = null;
  #hostSide: HostSide | null = null;
  #dns: Dns | null = null;
  #others: OtherPeers | null = null;
  readonly #underlay: Underlay;
  readonly #mtu: TunnelMtu;
  #wireguardSocket: WireguardSocket | null = null;
  readonly #locks: InstanceLock[] = [];
  #socket: LocalSocket | null = null;
  #timer: NodeJS.Timeout | null = null;
  /** RFC 3339; null until connected. */
  #since: string | null = null;
  /** Work on the host's network, one piece after the other. */
  #work: Promise<void> = Promise.resolve();
  /** What of it waits, and takes in whatever comes before its turn. */
  readonly #waiting = new Set<'apply' | 'restore'>();
  /** Over when what start() opens is open, or is not to be. */
  #opening: Promise<void> = Promise.resolve();
  #takingDown: Promise<void> | null = null;
  #stopping = false;
  #settle: (reason: VpnError | null) => void = () => {};

  /** Errors: those of reading our own key. */
  constructor(options: ClientOptions, host: ClientHost) {
    this.#options = options;
    this.#host = host;
    this.#servers = this.#newServers();
    this.#engine = new Engine({
      dataPlane: host.dataPlane,
      clock: host.clock,
      random: randomBytes,
      privateKey: this.#link.privateKey,
      timestamps: this.#stampFiles(),
      onEvent: (event) => this.#onEvent(event),
    });
    this.#mtu = new TunnelMtu({
      run: host.run,
      mark: () => this.#hostSide?.mark ?? this.#link.plan.fwmark,
      log: options.log,
      now: () => host.clock.now(),
      // A server of a profile may be any WireGuard peer, to which a control frame is noise.
      probe: (size, mtu) =>
        this.#link.plan.network === null ? this.#link.control.probe(size, mtu) : null,
      onChange: () => this.#once('apply'),
    });
    this.#underlay = new Underlay({
      run: host.run,
      device: () => this.#opened?.device ?? null,
      server: () => this.#link.outer[0] ?? null,
      mark: () => this.#hostSide?.mark ?? 0,
      onWay: (way, text) => this.#servers.moved({ type: 'way', way, text }),
      onDisturbed: () => this.#once('restore'),
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
    const opening = this.#open();
    this.#opening = opening.catch(() => {});
    try {
      await opening;
    } catch (error) {
      const staysClosed = this.#staysClosed;
      await this.#takeDown(staysClosed);
      await this.#release();
      throw staysClosed ? stillClosed(asVpnError(error, 'vpn-client')) : error;
    }
    // Somebody said `disconnect` meanwhile.
    if (this.#takingDown !== null) return;
    this.#underlay.start(this.#host.watch);
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    this.#servers.start();
  }

  /**
   * Says goodbye, undoes every change to the host and ends; idempotent. With a `reason` a
   * protection may stay.
   */
  async stop(reason: VpnError | null = null): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    this.#servers.close();
    const staysClosed = reason !== null && this.#staysClosed;
    let failure = staysClosed ? stillClosed(reason) : reason;
    try {
      await this.#takeDown(staysClosed);
      await this.#release();
    } catch (cause) {
      failure ??= new VpnError('INTERNAL', 'the client could not stop cleanly', { cause });
    }
    this.#settle(failure);
  }

  /**
   * An end that nobody here asked for leaves the protection in force: neither a server that refuses
   * nor a lost device opens a host that was closed. The first connection that fails does.
   */
  get #staysClosed(): boolean {
    const { protect, lockdown } = this.#options.traffic;
    const wasClosed = this.#since !== null || (this.#hostSide?.wasClosed ?? false);
    return protect && !lockdown && wasClosed;
  }

  status(): ClientStatus {
    if (this.#opened === null || this.#stopping) {
      throw new VpnError('NOT_RUNNING', 'the client is stopping');
    }
    const { place, target } = this.#options;
    return describe({
      tunnel: place.tunnel,
      profile: target.type === 'file' ? target.path : null,
      state: this.#servers.state,
      opened: this.#opened,
      peer: this.#link.peer,
      network: this.#network,
      full: this.#hostSide?.isFull ?? false,
      name: this.#link.keys.name,
      publicKey: this.#engine.publicKey,
      serverPublicKey: this.#link.plan.serverPublicKey,
      since: this.#since,
      dns: this.#dns?.state ?? null,
      netns: this.#options.traffic.netns,
      protection: this.#hostSide?.protection ?? null,
      clashes: [...(this.#hostSide?.clashes ?? []), ...this.#link.leases.problems],
      servers: this.#servers.lines,
      deviceDrops: this.#engine.device().drops,
    });
  }

  /** The server in use. */
  get #link(): ServerLink {
    return this.#servers.active;
  }

  get state(): ConnectionState {
    return this.#servers.state;
  }

  /** How the host's network is to look now; null while the lease is missing. */
  get #network(): Network | null {
    const { network } = this.#link;
    return network && this.#mtu.of(network);
  }

  async #open(): Promise<void> {
    const options = this.#options;
    const { plan, keys } = this.#link;
    try {
      for (const folder of this.#servers.folders) {
        this.#locks.push(acquireInstanceLock(folder, 'client'));
      }
      this.#socket = await serveBesideCleanup(options, {
        status: () => this.status(),
        disconnect: () => this.#disconnect(),
        rotateKey: () => this.#link.rotation.start(this.#servers.state),
      });
    } catch (error) {
      if (!(error instanceof VpnError) || error.code !== 'ALREADY_RUNNING') throw error;
      const running = await findRunning(options.place, options.target).catch(() => null);
      throw running ?? error;
    }
    const device = options.device ?? defaultDevice(keys.folder);
    const { log, traffic, place } = options;
    const { run, lookUp } = this.#host;
    const mark = plan.fwmark;
    const hostSide = new HostSide({
      ...{ device, place, traffic, mark, run, lookUp, log },
      tell: (text) => this.#tell(text),
    });
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
    const { journal } = hostSide;
    this.#dns = new Dns(dnsOptions({ device, journal, run }, traffic.netns, ownerMark(place)));
    this.#others = new OtherPeers({
      peers: plan.others,
      firstId: this.#servers.nextPeer,
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
  #takeDown(staysClosed = false): Promise<void> {
    this.#takingDown ??= (async () => {
      await this.#opening;
      if (this.#timer !== null) clearInterval(this.#timer);
      this.#link.rotation.close();
      this.#underlay.close();
      this.#others?.close();
      if (this.#opened !== null && this.#link.peer?.connected) this.#link.control.goodbye();
      await this.#work;
      await this.#hostSide?.undo(staysClosed);
      this.#engine.close();
      await this.#wireguardSocket?.close();
    })();
    return this.#takingDown;
  }

  async #release(): Promise<void> {
    await this.#socket?.close();
    for (const lock of this.#locks.splice(0)) lock.release();
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
    this.#servers.tick();
    this.#hostSide?.follow(this.#servers.state);
    const change = this.#dns?.keep(this.#host.clock.now()) ?? null;
    if (change !== null) this.#options.log.warn(change);
  }

  #newServers(): Servers {
    const { target, fallbacks, store, timeoutMs, log } = this.#options;
    return new Servers({
      targets: [target, ...fallbacks],
      ...{ store, timeoutMs, log },
      engine: () => this.#engine,
      now: () => this.#host.clock.now(),
      link: (start) => this.#newLink(start),
      resolve: (endpoints) => this.#resolve(endpoints),
      onAction: (action) => this.#perform(action),
      later: (piece) => this.#later(piece),
      onNote: this.#options.onNote,
    });
  }

  /** Every server's folder has the highest stamp: any of them may be the only one next time. */
  #stampFiles() {
    const files = this.#servers.folders.map((folder) => new TimestampFile(folder));
    const stamps = files.flatMap((file) => file.read() ?? []);
    return {
      floor: stamps.sort(compareTai64n).at(-1) ?? null,
      onUsed: (stamp: Uint8Array) => {
        for (const file of files) file.keep(stamp, this.#options.log);
      },
    };
  }

  #newLink(start: LinkStart): ServerLink {
    const { store, log, traffic } = this.#options;
    const inUse = () => this.#link === link;
    const link = new ServerLink({
      ...start,
      ...{ store, log },
      clock: this.#host.clock,
      full: traffic.full,
      engine: () => this.#engine,
      allowedIps: (ranges, full) => this.#hostSide?.allowedIps(ranges, full) ?? ranges,
      onEstablished: (again) => {
        if (!inUse()) return;
        if (again) this.#probeMtu(true);
        else this.#mtu.confirm();
        void this.#underlay.remember();
      },
      onLeased: () => {
        if (this.#since !== null && inUse()) this.#probeMtu(false);
      },
      onProbed: (id) => {
        if (inUse()) this.#mtu.answered(id);
      },
    });
    return link;
  }

  #perform(action: HostAction): void {
    switch (action.type) {
      case 'apply':
        this.#once('apply');
        break;
      case 'check':
        this.#later(() => this.#check());
        break;
      case 'stage':
        this.#options.onStage(action.stage, action.text);
        break;
      case 'note':
        this.#tell(action.text, action.good);
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

  /** To who waits for the connection; to the log once it stands. */
  #tell(text: string, good = false): void {
    if (this.#since === null) this.#options.onNote(text);
    else this.#options.log[good ? 'info' : 'warn'](text);
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
        this.#servers.of(event.peer)?.onEvent(event);
        break;
      case 'attempt':
      case 'gaveUp':
      case 'control':
        this.#servers.of(event.peer)?.onEvent(event);
        if (event.type === 'gaveUp') this.#others?.gaveUp(event.peer);
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

  /** However often it is asked for while something else is done, it is done once. */
  #once(what: 'apply' | 'restore'): void {
    if (this.#waiting.has(what)) return;
    this.#waiting.add(what);
    this.#later(() => {
      this.#waiting.delete(what);
      return what === 'apply' ? this.#apply() : this.#restore();
    });
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
    if (this.#network === null) return;
    await this.#link.leases.inForce(async () => {
      const [network, { full, outer, nameServers }] = [this.#network!, this.#link];
      await this.#hostSide?.apply({ network, full, endpoints: outer, nameServers }, () => {
        this.#link.setPeer();
        this.#engine.setPathMtu(this.#link.id, this.#mtu.below(network));
        this.#engine.configure({ mtu: network.mtu, addresses: innerAddresses(network) });
      });
      this.#link.input({ type: 'applied', text: network.addresses.join(', ') || 'none' });
      return this.#applyDns();
    });
    // Nobody waits for servers that may not answer, but at the start.
    if (this.#since !== null) void this.#checkNames();
  }

  /** `again`: over a new way, even when nothing else changed. */
  #probeMtu(again: boolean): void {
    void this.#mtu.start(this.#link.network, this.#link.outer[0] ?? null, again);
  }

  /** Result: what does not work of it. */
  async #applyDns(): Promise<string[]> {
    const all = this.#link.full || this.#options.traffic.netns !== null;
    const { leases, plan } = this.#link;
    const wish = dnsWish(leases.lease?.dns, plan.dns, all);
    await this.#hostSide?.names(wish.everything && wish.servers.length > 0);
    const state = await this.#dns?.apply(wish);
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
    if (this.#since === null) return;
    await this.#hostSide?.networkChanged(this.#link.outer);
    this.#probeMtu(false);
  }

  async #check(): Promise<void> {
    const network = this.#network;
    if (network === null) return;
    await this.#checkNames();
    const reached = await this.#hostSide?.check(network, this.#link.outer[0] ?? null);
    const { serverAddress: server } = network;
    const whom = server === null ? 'the network' : reached ? server : `all but ${server}`;
    this.#link.input({ type: 'checked', text: `${whom} through ${this.#opened?.device}` });
  }

  #ready(): void {
    void this.#underlay.remember();
    if (this.#since !== null) {
      this.#probeMtu(true);
      return;
    }
    this.#since = new Date(this.#host.clock.wall().seconds * 1000).toISOString();
    this.#probeMtu(true);
    this.#options.onReady(this.status());
  }
}

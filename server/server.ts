/**
 * The running server: makes every part, connects them, keeps the tick, and takes all of it down
 * again. The only file of the server that constructs things; decides nothing itself.
 */
import { existsSync, realpathSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import type { PublicKey } from '../keys/keypair.ts';
import { bootClock as clock, createDataPlane } from '../native/index.ts';
import type { DismissalReason } from '../shared/control/messages.ts';
import type { Interface, PeerId } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import type { Logger } from '../shared/log.ts';
import { randomBytes } from '../shared/node-crypto.ts';
import { Engine, type EngineEvent, TICK_MS } from '../shared/session/engine.ts';
import { addAddress, bringUp } from '../shared/system/link.ts';
import { type LocalSocket, serveLocalSocket } from '../shared/system/local-socket.ts';
import { requireTun } from '../shared/system/require-tun.ts';
import { offerWireguardSocket, type WireguardSocket } from '../shared/uapi/socket.ts';
import { serverAddress6 } from './addresses.ts';
import { Administration, FIRST_INVITE, type InviteReply } from './administration.ts';
import { applySettings } from './apply-settings.ts';
import { journalPath } from './cleanup.ts';
import type { ServerConfiguration } from './configuration.ts';
import { ControlService } from './control-service.ts';
import { Events } from './events.ts';
import { defaultDevice, outwardAddress, overlappingLinks, tunnelOverlaps } from './host-check.ts';
import { HostSetup } from './host-setup.ts';
import { formatIpv4 } from './ipv4.ts';
import type { Member } from './member.ts';
import { PeerRoutes } from './peer-routes.ts';
import { Policy } from './policy.ts';
import { Presence } from './presence.ts';
import { RefusalLog } from './refusal-log.ts';
import type { Registry } from './registry.ts';
import { LiveSettings, type LiveSettingsOptions, type ReloadReply } from './reload.ts';
import { localMethods } from './rpc.ts';
import { sumTraffic, type Traffic } from './service-notices.ts';
import { settingNotes } from './setting-notes.ts';
import { StampReserve } from './stamp-reserve.ts';
import { createRegistry, openState, type ServerState } from './state.ts';
import { readStatus } from './status.ts';
import type { SavedSettings } from './store/store.ts';
import { StoreUpkeep } from './store-upkeep.ts';

/** Handshakes started per tick after a restart; more would hold up the traffic. */
const RECONNECTS_PER_TICK = 50;
/** The first invite of a new server is good for this long, seconds. */
const FIRST_INVITE_SECONDS = 86_400;

export interface ServerOptions {
  readonly configuration: ServerConfiguration;
  readonly stateDirectory: string;
  readonly socketPath: string;
  /** For commands on the stopped server. */
  readonly settings: SavedSettings;
  readonly reread: LiveSettingsOptions['reread'];
  /** Whether the first start makes an invite: not where it would end up in the system's journal. */
  readonly offersInvite: boolean;
  readonly log: Logger;
}

export interface RunningServer {
  readonly opened: Interface;
  readonly publicKey: PublicKey;
  /** Made at the first start of a state directory; null: at others, or not wanted. */
  readonly firstInvite: InviteReply | null;
  /** Settles when the server has stopped: null, or why it had to. */
  readonly stopped: Promise<VpnError | null>;
  /** Throws VpnError CONFIG_*, and then nothing has changed. */
  reload(): Promise<ReloadReply>;
  stop(): Promise<void>;
  traffic(): Traffic;
}

/**
 * Starts a server; resolves when tun, sockets and control socket are ready. Throws VpnError for
 * whatever is in the way, after taking down what was already made.
 */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  requireTun();
  const isNew = !existsSync(options.stateDirectory);
  const state = openState(options.stateDirectory);
  const server = new Server(options, state);
  try {
    return await server.start();
  } catch (error) {
    await server.close();
    // A first start that fails changes nothing: nobody has seen the identity it made.
    if (isNew) rmSync(options.stateDirectory, { recursive: true, force: true });
    throw error;
  }
}

class Server {
  readonly #options: ServerOptions;
  readonly #state: ServerState;
  readonly #stamps: StampReserve;
  readonly #engine: Engine;
  readonly #registry: Registry;
  readonly #control: ControlService;
  readonly #refusals: RefusalLog;
  readonly #settings: LiveSettings;
  readonly #policy: Policy;
  readonly #administration: Administration;
  readonly #events = new Events(() => clock.wall().seconds * 1000 + clock.wall().nanoseconds / 1e6);
  readonly #presence: Presence;
  readonly #upkeep: StoreUpkeep;
  #opened: Interface | null = null;
  #host: HostSetup | null = null;
  #routes: PeerRoutes | null = null;
  #socket: LocalSocket | null = null;
  #wireguardSocket: WireguardSocket | null = null;
  #timer: NodeJS.Timeout | null = null;
  #startedAt = 0;
  /** Peers still to be shaken hands with after the start. */
  #reconnects: PeerId[] = [];
  /** Settles when start() has come to its end, good or bad. */
  #started: Promise<void> = Promise.resolve();
  #closing: Promise<void> | null = null;
  readonly #stopped: Promise<VpnError | null>;
  #settle: (reason: VpnError | null) => void = () => {};

  constructor(options: ServerOptions, state: ServerState) {
    const { configuration, log } = options;
    this.#options = options;
    this.#state = state;
    this.#stopped = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.#stamps = new StampReserve(options.stateDirectory, (err) =>
      log.error({ err }, 'the handshake timestamp could not be written'),
    );
    this.#engine = new Engine({
      dataPlane: createDataPlane(),
      clock,
      random: randomBytes,
      privateKey: state.identity.privateKey,
      timestamps: this.#stamps,
      onEvent: (event) => this.#onEvent(event),
    });
    const settings = new LiveSettings({
      configuration,
      reread: options.reread,
      apply: (next, changed) => this.#applySettings(next, changed),
      log,
    });
    this.#settings = settings;
    this.#policy = new Policy({
      configuration: () => settings.current,
      registry: () => this.#registry,
    });
    this.#registry = createRegistry(
      state,
      configuration,
      {
        setPeer: (id, spec) => this.#engine.setPeer(id, spec),
        removePeer: (member, why) => this.#removePeer(member, why),
      },
      () => this.#peersChanged(),
    );
    const { stateDirectory } = options;
    const [registry, engine] = [this.#registry, this.#engine];
    this.#upkeep = new StoreUpkeep({ registry, engine, stateDirectory, clock, log });
    this.#presence = new Presence({
      registry,
      events: this.#events,
      log,
      onSeen: (peers) => {
        if (this.#closing === null) this.#upkeep.record(peers);
      },
    });
    this.#refusals = new RefusalLog(log, this.#registry, this.#events);
    this.#control = new ControlService({
      registry: this.#registry,
      policy: this.#policy,
      clock,
      random: randomBytes,
      send: (peer, frame) => this.#engine.sendControl(peer, frame),
      onPathMtu: (peer, mtu) => this.#engine.setPathMtu(peer, mtu),
      onGoodbye: (peer) => this.#presence.left(peer, 'goodbye'),
      events: this.#events,
      log,
    });
    this.#administration = new Administration({
      registry: this.#registry,
      store: state.store,
      publicKey: state.identity.publicKey,
      get configuration() {
        return settings.current;
      },
      now: () => clock.wall().seconds,
      outwardAddress: () => outwardAddress(this.#opened?.device ?? null),
      overlappingLinks,
    });
  }

  start(): Promise<RunningServer> {
    const starting = this.#start();
    this.#started = starting.then(
      () => {},
      () => {},
    );
    return starting;
  }

  async #start(): Promise<RunningServer> {
    const { log, socketPath, settings } = this.#options;
    const offersInvite = this.#options.offersInvite && this.#state.store.settings() === null;
    for (const warning of this.#settings.current.warnings) log.warn(warning);
    for (const { what, ...where } of await tunnelOverlaps(this.#options.configuration)) {
      log.warn(where, what);
    }
    this.#opened = this.#open();
    this.#startedAt = clock.now();
    this.#admitAll();
    await this.#bringUp(this.#opened);
    this.#socket = await serveLocalSocket(
      socketPath,
      localMethods({
        administration: this.#administration,
        events: this.#events,
        settings: this.#settings,
        stateDirectory: realpathSync(this.#options.stateDirectory),
        status: () => this.#status(),
        doctor: () => this.#host?.check() ?? [],
        stop: () => this.#stopSoon(),
      }),
    );
    // Now that the run directory is ours: an answering control socket would have ended the start.
    this.#host = this.#setUpHost(this.#opened);
    await this.#host.start();
    this.#wireguardSocket = await this.#offerWireguardSocket(this.#opened);
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    this.#state.store.saveSettings(settings);
    this.#upkeep.backUp();
    const firstInvite = offersInvite ? await this.#firstInvite() : null;
    if (!offersInvite) this.#administration.remindOfFirst(log);
    const { device, port, aead, workers } = this.#opened;
    log.info({ device, port, aead, workers }, 'server is ready');
    return {
      opened: this.#opened,
      publicKey: this.#engine.publicKey,
      firstInvite,
      stopped: this.#stopped,
      reload: () => this.#settings.reload(),
      stop: () => this.#stop(null),
      // Asked also while it stops, when the engine may be closed.
      traffic: () => {
        const peers = this.#closing === null ? this.#engine.peers() : [];
        return sumTraffic(peers, this.#registry.peers());
      },
    };
  }

  /** Takes down whatever there is; idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#takeDown();
    return this.#closing;
  }

  async #takeDown(): Promise<void> {
    // Whoever stops a server that is still starting would take down half of it.
    await this.#started;
    if (this.#timer !== null) clearInterval(this.#timer);
    if (this.#opened !== null) {
      this.#control.goodbye();
      this.#upkeep.recordAll();
    }
    await this.#host?.close();
    this.#engine.close();
    this.#stamps.close();
    await this.#wireguardSocket?.close();
    await this.#socket?.close();
    this.#state.close();
  }

  #open(): Interface {
    const { configuration: c, stateDirectory } = this.#options;
    const own6 = serverAddress6(c);
    return this.#engine.open({
      device: c.device ?? defaultDevice(stateDirectory),
      mtu: c.mtu,
      listen: c.listen,
      fwmark: c.fwmark,
      clientToClient: c.clientToClient,
      addresses: [formatIpv4(c.address), ...(own6 === null ? [] : [own6.address])],
      workers: c.workers,
      aead: c.aead,
      offloads: c.offloads,
    });
  }

  #admitAll(): void {
    const problems = this.#registry.load(clock.wall().seconds);
    for (const note of [...problems, ...this.#settingNotes()]) this.#options.log.warn(note);
    this.#reconnects = this.#registry.recentlyActive();
  }

  async #bringUp({ device }: Interface): Promise<void> {
    const { configuration } = this.#options;
    const { address, network, mtu } = configuration;
    await addAddress(device, `${formatIpv4(address)}/${network.prefixLength}`);
    const own6 = serverAddress6(configuration);
    if (own6 !== null) await addAddress(device, `${own6.address}/${own6.prefixLength}`);
    await bringUp(device, mtu);
    this.#routes = new PeerRoutes(device, this.#options.log);
    await this.#routes.follow(this.#registry.networks());
  }

  /** Peers are not what they were: what follows from them is brought in line. */
  #peersChanged(): void {
    this.#policy.changed();
    if (this.#opened === null) return;
    void this.#routes?.follow(this.#registry.networks());
    this.#control.refresh();
  }

  #setUpHost({ device }: Interface): HostSetup {
    const { configuration, socketPath, log } = this.#options;
    const journal = journalPath(dirname(socketPath));
    const addressOf = (name: string) => this.#registry.peerNamed(name)?.record.address ?? null;
    const onMoved = () => {
      const connected = [...this.#engine.peers()].filter((status) => status.connected);
      this.#reconnects = connected.map(({ peer }) => peer);
      log.info('this host has another address; shaking hands with the peers that were connected');
    };
    const more = { events: this.#events, addressOf, onMoved, log };
    return new HostSetup({ device, journalPath: journal, configuration, ...more });
  }

  async #applySettings(next: ServerConfiguration, changed: readonly string[]): Promise<string[]> {
    const targets = {
      registry: this.#registry,
      engine: this.#engine,
      opened: this.#opened,
      host: this.#host,
      log: this.#options.log,
      now: clock.wall().seconds,
    };
    const notes = await applySettings(targets, next, changed);
    this.#peersChanged();
    return [...notes, ...this.#settingNotes()];
  }

  #settingNotes(): string[] {
    return settingNotes({
      configuration: this.#settings.current,
      registry: this.#registry,
      policy: this.#policy,
      invited: this.#administration.peers().invites.map(({ name }) => name),
    });
  }

  /** For `wg show` and the exporters that read like it; the store stays the truth. */
  #offerWireguardSocket({ device, port }: Interface): Promise<WireguardSocket | null> {
    const settings = this.#settings;
    return offerWireguardSocket({
      name: device,
      engine: this.#engine,
      // Invites and keys to come own nothing yet.
      isShown: (id) => this.#registry.member(id)?.type === 'peer',
      privateKey: () => this.#state.identity.privateKey,
      listenPort: () => port,
      get fwmark() {
        return settings.current.fwmark;
      },
      changedBy: 'vpn-server invite and vpn-server revoke',
      log: this.#options.log,
    });
  }

  async #firstInvite(): Promise<InviteReply | null> {
    const { store } = this.#state;
    if (store.peers().length > 0 || store.invites().length > 0) return null;
    try {
      return await this.#administration.invite({
        name: FIRST_INVITE,
        endpoints: [],
        address: null,
        expiresInSeconds: FIRST_INVITE_SECONDS,
      });
    } catch (error) {
      if (!(error instanceof VpnError) || error.code !== 'ENDPOINT_UNKNOWN') throw error;
      this.#options.log.warn(`${error.message}; \`vpn-server invite NAME --endpoint\` makes one`);
      return null;
    }
  }

  /** A peer that is shut out hears why with the last packet under its key. */
  #removePeer({ id, record: { name } }: Member, why: DismissalReason | null): void {
    if (why === null) {
      this.#control.forget(id);
    } else {
      this.#control.dismiss(id, why);
      this.#options.log.info({ peer: name, reason: why }, 'peer shut out');
      this.#events.add({ type: 'dismissed', peer: name, reason: why });
    }
    this.#engine.removePeer(id);
    this.#presence.forget(id);
  }

  #tick(): void {
    this.#engine.tick();
    this.#control.tick();
    this.#upkeep.tick();
    for (const id of this.#reconnects.splice(0, RECONNECTS_PER_TICK)) this.#engine.connect(id);
  }

  #onEvent(event: EngineEvent): void {
    const { log } = this.#options;
    switch (event.type) {
      case 'control':
        this.#control.receive(event.peer, event.bytes);
        break;
      case 'established':
        this.#upkeep.attempt(() => this.#confirm(event.peer));
        this.#presence.established(event.peer, event.endpoint);
        break;
      case 'roamed':
        this.#presence.roamed(event.peer, event.endpoint);
        break;
      case 'expired':
        this.#control.forget(event.peer);
        this.#presence.left(event.peer, 'silent');
        break;
      case 'refused':
        this.#refusals.add(event, clock.now());
        break;
      case 'fallback':
        log.info({ offload: event.offload, errno: event.errno }, 'offload given up');
        break;
      case 'fault':
        void this.#stop(
          new VpnError('DEVICE_LOST', `the ${event.where} failed (errno ${event.errno})`),
        );
        break;
      case 'attempt':
      case 'gaveUp':
        log.debug({ peer: this.#nameOf(event.peer) }, event.type);
        break;
      default:
        event satisfies never;
    }
  }

  /** A new key has shaken hands: it takes the place of its peer's old one. */
  #confirm(id: PeerId): void {
    const peer = this.#registry.confirm(id, clock.wall().seconds);
    if (peer === null) return;
    this.#options.log.info({ peer }, 'key replaced');
    this.#events.add({ type: 'keyReplaced', peer });
  }

  #nameOf(peer: PeerId): string | undefined {
    return this.#registry.member(peer)?.record.name;
  }

  #status() {
    if (this.#opened === null || this.#closing !== null) {
      throw new VpnError('NOT_RUNNING', 'the server is stopping');
    }
    return readStatus({
      engine: this.#engine,
      registry: this.#registry,
      opened: this.#opened,
      nat: this.#host?.nat ?? null,
      control: this.#control,
      policy: this.#policy,
      configuration: this.#settings.current,
      startedAt: this.#startedAt,
    });
  }

  /** Answers first, then stops. */
  #stopSoon(): { readonly stateDirectory: string } {
    setImmediate(() => void this.#stop(null));
    return { stateDirectory: realpathSync(this.#options.stateDirectory) };
  }

  async #stop(reason: VpnError | null): Promise<void> {
    try {
      await this.close();
      this.#settle(reason);
    } catch (error) {
      this.#settle(
        reason ?? new VpnError('INTERNAL', 'the server could not stop cleanly', { cause: error }),
      );
    }
  }
}

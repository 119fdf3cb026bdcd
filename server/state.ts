/**
 * The state directory opened by one process: lock, store, identity, and the registry on them. The
 * server holds it while it runs, a command for as long as it takes.
 */
import { join } from 'node:path';
import { parseCidr } from '../shared/cidr.ts';
import { VpnError } from '../shared/errors.ts';
import { giveToOwner } from '../shared/system/give-to-owner.ts';
import { acquireInstanceLock, type InstanceLock } from '../shared/system/instance-lock.ts';
import { AddressPool } from './address-pool.ts';
import { Addresses } from './addresses.ts';
import { requireRestored, withWayBack } from './backup.ts';
import type { ServerConfiguration } from './configuration.ts';
import { IDENTITY_FILE, loadIdentity, type ServerIdentity } from './identity.ts';
import { formatIpv4 } from './ipv4.ts';
import { Registry } from './registry.ts';
import type { FixedSettings, PeerTable, RegistryPolicy } from './registry-terms.ts';
import { openSqliteStore, STORE_FILE } from './store/sqlite-store.ts';
import type { Store } from './store/store.ts';

export { STORE_FILE };

export interface ServerState {
  readonly store: Store;
  readonly identity: ServerIdentity;
  /** Idempotent. */
  close(): void;
}

/**
 * Locks and opens `directory`, making what is missing. Throws VpnError: ALREADY_RUNNING,
 * LOCK_FAILED, STATE_UNUSABLE, RESTORE_UNFINISHED, STORE_*, IDENTITY_MISMATCH and the errors of key files.
 */
export function openState(directory: string): ServerState {
  const lock: InstanceLock = acquireInstanceLock(directory, 'server');
  let store: Store | null = null;
  try {
    requireRestored(directory);
    store = openSqliteStore(join(directory, STORE_FILE));
    const opened = store;
    const identity = loadIdentity(directory, opened);
    for (const file of [STORE_FILE, `${STORE_FILE}-wal`, `${STORE_FILE}-shm`, IDENTITY_FILE]) {
      giveToOwner(join(directory, file));
    }
    let open = true;
    const close = (): void => {
      if (!open) return;
      open = false;
      opened.close();
      lock.release();
    };
    return { store: opened, identity, close };
  } catch (error) {
    store?.close();
    lock.release();
    const corrupt = error instanceof VpnError && error.code === 'STORE_CORRUPT';
    throw corrupt ? withWayBack(error, directory) : error;
  }
}

/** The registry of an opened state; load() it when `peers` is ready. */
export function createRegistry(
  { store, identity }: ServerState,
  configuration: ServerConfiguration,
  peers: PeerTable,
  onChange: () => void = () => {},
): Registry {
  const { network, network6, address, pool } = configuration;
  const range6 = network6 === null ? null : parseCidr(network6);
  return new Registry({
    store,
    addresses: new Addresses(new AddressPool({ network, serverAddress: address, ...pool }), range6),
    peers,
    publicKey: identity.publicKey,
    policy: registryPolicy(configuration),
    onChange,
  });
}

/** The part of the settings that the registry follows, at start and after a reload. */
export function registryPolicy(configuration: ServerConfiguration): RegistryPolicy {
  const { maxClients, pool, peers } = configuration;
  const fixed = new Map<string, FixedSettings>();
  for (const [name, { push: _, address, ...settings }] of peers) {
    fixed.set(name, {
      ...settings,
      ...(address === undefined ? {} : { address: formatIpv4(address) }),
    });
  }
  return { maxClients, pool, fixed: (name) => fixed.get(name), fixedNames: [...fixed.keys()] };
}

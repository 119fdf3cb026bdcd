/** What crosses from TypeScript to the data plane: transport keys do, long-lived secrets never. */
import { expect, test } from 'vitest';
import { generatePresharedKey, generatePrivateKey } from '../../keys/keypair.ts';
import { toHex } from '../../shared/bytes.ts';
import type { DataPlane } from '../../shared/dataplane.ts';
import { aliceAndBob, type Device } from './device.ts';
import { SEED, SimulatedNetwork } from './simulated-network.ts';

const SECOND = 1000;
const VERBS = [
  'configure',
  'setPeer',
  'removePeer',
  'installKeypair',
  'dropKeypairs',
  'sendHandshake',
  'sendInner',
] as const satisfies (keyof DataPlane)[];

/** Hexadecimal text of every byte array in a value, at any depth. */
function bytesIn(value: unknown): string[] {
  if (value instanceof Uint8Array) return [toHex(value)];
  if (typeof value !== 'object' || value === null) return [];
  return Object.values(value).flatMap(bytesIn);
}

/** Writes down the bytes of all arguments that the data plane of a device is given from now on. */
function overhear(device: Device, heard: string[]): void {
  const plane = device.plane as unknown as Record<string, (...args: unknown[]) => unknown>;
  for (const verb of VERBS) {
    const real = plane[verb]!.bind(device.plane);
    plane[verb] = (...args) => {
      heard.push(...bytesIn(args));
      return real(...args);
    };
  }
}

test('no call to the data plane carries a static private key or a preshared key', () => {
  const network = new SimulatedNetwork(SEED);
  const keys = [generatePrivateKey(), generatePrivateKey(), generatePrivateKey()] as const;
  const presharedKey = generatePresharedKey();
  const { alice, bob } = aliceAndBob(network, {
    alice: { privateKey: keys[0] },
    bob: { privateKey: keys[1] },
  });
  const heard: string[] = [];
  for (const device of [alice, bob]) overhear(device, heard);
  const known = alice.peer(1, bob, { endpoint: bob.plane.endpoint, presharedKey });
  bob.peer(1, alice, { presharedKey });
  alice.say(bob, 'hello');
  network.advance(SECOND);
  expect(bob.heard()).toEqual(['hello']);
  alice.engine.setPrivateKey(keys[2]);
  alice.engine.removePeer(known);
  const all = heard.join(' ');
  expect(all).toContain(toHex(bob.publicKey));
  for (const secret of [...keys, presharedKey]) expect(all).not.toContain(toHex(secret));
});

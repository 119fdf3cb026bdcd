/**
 * What the framing of a control message costs: a lease with ten routes, and the largest body.
 */
import { load } from '../product.mjs';
import { rateOf } from './rate.mjs';

/** @param {number} seconds For each figure. @returns {Promise<import('./rate.mjs').Rate[]>} */
export async function measureControl(seconds) {
  /** @type {typeof import('../../../shared/control/messages.ts')} */
  const { frameMessage, Reassembler } = await load('shared/control/messages');
  const lease = (/** @type {number} */ routes) =>
    /** @type {import('../../../shared/control/messages.ts').LeaseAnswer} */ ({
      type: 'leased',
      id: 1,
      address: '192.168.1.2',
      prefixLength: 24,
      serverAddress: '192.168.1.1',
      mtu: 1420,
      keepalive: 25,
      routes: Array.from({ length: routes }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`),
      dns: ['192.168.1.1'],
      domains: ['example.net'],
      full: false,
    });
  const reassembler = new Reassembler();
  let number = 0;
  const parse = (/** @type {Uint8Array[]} */ frames) => {
    const last = frames.map((frame) => reassembler.add(frame, 0)).at(-1);
    if (last?.type !== 'message') throw new Error(`lease is ${last?.type}`);
  };
  return [10, 1000].flatMap((routes) => {
    const message = lease(routes);
    const name = `lease with ${routes} routes`;
    const none = (/** @type {number} */ n) => Array.from({ length: n });
    return [
      rateOf(`${name}: into frames`, seconds, () => void frameMessage(message, 1), none),
      rateOf(`${name}: frames to message`, seconds, parse, (n) =>
        Array.from({ length: n }, () => {
          number += 1;
          return frameMessage(message, number);
        }),
      ),
    ];
  });
}

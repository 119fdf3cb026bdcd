/** The simulated data plane keeps the contract: what the simulations prove holds for it too. */
import type { DataPlaneEvent } from '../../shared/dataplane.ts';
import { SimulatedDataPlane } from '../sim/simulated-data-plane.ts';
import { type Datagram, SimulatedNetwork } from '../sim/simulated-network.ts';
import { dataPlaneContract } from './data-plane-contract.ts';
import type { MakePair, Side, SideOptions } from './pair.ts';

const make: MakePair = async (optionsA, optionsB) => {
  const network = new SimulatedNetwork(1);
  const open = (address: string, options: SideOptions): Side => {
    const plane = new SimulatedDataPlane(network, address);
    const events: DataPlaneEvent[] = [];
    const offloads = { tunTcp: true, tunUdp: true, udpGso: true, udpGro: true };
    plane.open(
      {
        ...options,
        device: 'sim%d',
        mtu: 1420,
        listen: { port: 6000 },
        fwmark: 0,
        workers: 1,
        aead: 'auto',
        offloads,
      },
      (event) => events.push(event),
    );
    return {
      plane,
      publicKey: options.publicKey,
      endpoint: plane.endpoint,
      events,
      inject: (packet) => plane.injectInner(packet),
      collect: () => plane.delivered.splice(0),
    };
  };
  const a = open('192.0.2.1', optionsA);
  const b = open('192.0.2.2', optionsB);
  let last: Datagram | undefined;
  network.tap((datagram) => {
    if (datagram.from.address === a.endpoint.address) last = datagram;
  });
  return {
    a,
    b,
    settle: async () => network.advance(20),
    advance: async (ms) => network.advance(ms),
    resend: (alter) => {
      const bytes = Uint8Array.from(last!.bytes);
      alter(bytes);
      network.deliver({ ...last!, bytes });
    },
    close: async () => {
      a.plane.close();
      b.plane.close();
    },
  };
};

dataPlaneContract('simulated', make);

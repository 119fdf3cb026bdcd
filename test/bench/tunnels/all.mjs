/**
 * The tunnels that are compared, by name.
 */
import { startCulvert } from './culvert.mjs';
import { startOpenvpn } from './openvpn.mjs';
import { startRaw } from './raw.mjs';
import { startWireguardGo } from './wireguard-go.mjs';

const NO_UDP = { CULVERT_OFFLOAD_UDP_GSO: 'off', CULVERT_OFFLOAD_UDP_GRO: 'off' };
const NO_TUN = { CULVERT_OFFLOAD_TUN_TCP: 'off', CULVERT_OFFLOAD_TUN_UDP: 'off' };

/** @type {Record<string, (context: import('./tunnel.mjs').TunnelContext) => Promise<import('./tunnel.mjs').Tunnel>>} */
export const TUNNELS = {
  raw: startRaw,
  culvert: (context) => startCulvert(context, {}),
  'culvert-openssl': (context) => startCulvert(context, { CULVERT_AEAD: 'openssl' }),
  // What each technique brings: one packet per call, super-packets at the tun, at the sender, all.
  'culvert-packets': (context) => startCulvert(context, { ...NO_TUN, ...NO_UDP }),
  'culvert-tun': (context) => startCulvert(context, NO_UDP),
  'culvert-tun-gso': (context) => startCulvert(context, { CULVERT_OFFLOAD_UDP_GRO: 'off' }),
  'culvert-1-worker': (context) => startCulvert(context, { CULVERT_WORKERS: '1' }),
  'wireguard-go': startWireguardGo,
  openvpn: (context) => startOpenvpn(context, 'AES-256-GCM'),
  'openvpn-chacha': (context) => startOpenvpn(context, 'CHACHA20-POLY1305'),
};
/** What is compared unless tunnels are named. */
export const DEFAULT_TUNNELS = ['raw', 'culvert', 'culvert-openssl', 'wireguard-go', 'openvpn'];

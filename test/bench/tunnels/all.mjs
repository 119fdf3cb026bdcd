/**
 * The tunnels that are compared, by name.
 */
import { startCulvert } from './culvert.mjs';
import { startOpenvpn } from './openvpn.mjs';
import { startRaw } from './raw.mjs';
import { startWireguardGo } from './wireguard-go.mjs';

/** @type {Record<string, (context: import('./tunnel.mjs').TunnelContext) => Promise<import('./tunnel.mjs').Tunnel>>} */
export const TUNNELS = {
  raw: startRaw,
  culvert: (context) => startCulvert(context, 'auto'),
  'culvert-openssl': (context) => startCulvert(context, 'openssl'),
  'wireguard-go': startWireguardGo,
  openvpn: (context) => startOpenvpn(context, 'AES-256-GCM'),
  'openvpn-chacha': (context) => startOpenvpn(context, 'CHACHA20-POLY1305'),
};
/** What is compared unless tunnels are named. */
export const DEFAULT_TUNNELS = ['raw', 'culvert', 'culvert-openssl', 'wireguard-go', 'openvpn'];

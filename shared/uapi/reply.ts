/** Replies of the WireGuard configuration protocol as text: the state of a device, an errno. */
import type { PresharedKey, PrivateKey, PublicKey } from '../../keys/keypair.ts';
import { toHex } from '../bytes.ts';
import type { WallTime } from '../clock.ts';
import type { Endpoint } from '../dataplane.ts';

/** What `get` shows of a device. */
export interface DeviceView {
  readonly privateKey: PrivateKey | null;
  readonly listenPort: number;
  readonly fwmark: number;
  readonly peers: Iterable<PeerView>;
}

export interface PeerView {
  readonly publicKey: PublicKey;
  /** Absent: it is not told; all zero: none. */
  readonly presharedKey?: PresharedKey;
  readonly endpoint: Endpoint | null;
  readonly lastHandshake: WallTime | null;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  readonly persistentKeepalive: number;
  /** `address/length`. */
  readonly allowedIps: Iterable<string>;
}

/** The end of every reply: 0, or the positive `errno` as the negative number that is sent. */
export function formatErrno(errno: number): string {
  return errno === 0 ? 'errno=0\n\n' : `errno=-${errno}\n\n`;
}

/** The answer to `get=1`, its errno included. Holds secrets: it goes to the socket only. */
export function formatDevice(device: DeviceView): string {
  const lines: string[] = [];
  if (device.privateKey !== null) lines.push(`private_key=${toHex(device.privateKey)}`);
  if (device.listenPort !== 0) lines.push(`listen_port=${device.listenPort}`);
  if (device.fwmark !== 0) lines.push(`fwmark=${device.fwmark}`);
  for (const peer of device.peers) pushPeer(lines, peer);
  lines.push(formatErrno(0));
  return lines.join('\n');
}

function pushPeer(lines: string[], peer: PeerView): void {
  lines.push(`public_key=${toHex(peer.publicKey)}`);
  if (peer.presharedKey) lines.push(`preshared_key=${toHex(peer.presharedKey)}`);
  lines.push('protocol_version=1');
  if (peer.endpoint !== null) lines.push(`endpoint=${formatEndpoint(peer.endpoint)}`);
  lines.push(
    `last_handshake_time_sec=${peer.lastHandshake?.seconds ?? 0}`,
    `last_handshake_time_nsec=${peer.lastHandshake?.nanoseconds ?? 0}`,
    `tx_bytes=${peer.bytesSent}`,
    `rx_bytes=${peer.bytesReceived}`,
    `persistent_keepalive_interval=${peer.persistentKeepalive}`,
  );
  for (const network of peer.allowedIps) lines.push(`allowed_ip=${network}`);
}

function formatEndpoint({ address, port }: Endpoint): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

/** The systemd unit of the server, with the paths of this installation and its port. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** It lies beside the sources, also seen from dist/. */
const PLACES = ['./systemd/vpn-server.service', '../../server/systemd/vpn-server.service'];

export interface UnitPaths {
  /** Of node and of cli.js. */
  readonly node: string;
  readonly program: string;
}

/** The paths of what is running now. */
export function ownPaths(): UnitPaths {
  return { node: process.execPath, program: fileURLToPath(new URL('./cli.js', import.meta.url)) };
}

/**
 * The folder or file because of which the user of the service cannot read `path`; null: he can.
 * He does not see home directories, whatever their modes are.
 */
export function hiddenFromService(path: string): string | null {
  const parts = path.split('/').slice(1);
  const above = parts.map((_, at) => `/${parts.slice(0, at + 1).join('/')}`);
  const isOpen = (part: string): boolean => {
    if (['/home', '/root', '/run/user', '/tmp'].includes(part)) return false;
    const bits = part === path ? 0o004 : 0o001;
    return ((statSync(part, { throwIfNoEntry: false })?.mode ?? 0) & bits) !== 0;
  };
  return above.find((part) => !isOpen(part)) ?? null;
}

/** A port below 1024 needs one privilege more. */
export function unitText({ node, program }: UnitPaths, port: number): string {
  const files = PLACES.map((place) => fileURLToPath(new URL(place, import.meta.url)));
  const command = `${quoted(node)} ${quoted(program)}`;
  const text = readFileSync(files.find((path) => existsSync(path)) ?? files[0]!, 'utf8')
    .replace(/^# The server as a service.*\n/, '')
    .replaceAll(/^(Exec\w+=-?)vpn-server\b/gm, (_, start: string) => `${start}${command}`);
  if (port >= 1024) return text;
  return text.replaceAll(
    /^(AmbientCapabilities|CapabilityBoundingSet)=.*/gm,
    (line) => `${line} CAP_NET_BIND_SERVICE`,
  );
}

/** systemd.service(5): percent signs are specifiers, dollar signs variables. */
function quoted(path: string): string {
  const plain = path.replaceAll('%', '%%').replaceAll('$', '$$$$');
  return /[\s"'\\]/.test(plain) ? JSON.stringify(plain) : plain;
}

/** The systemd unit of the server, with the paths of this installation and its port. */
import { statSync } from 'node:fs';
import { readUnit, type UnitPaths, withPaths } from '../shared/system/systemd-unit.ts';

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
export function unitText(paths: UnitPaths, port: number): string {
  const template = readUnit(import.meta.url, 'server', 'vpn-server.service');
  const text = withPaths(
    template.replace(/^# The server as a service.*\n/, ''),
    'vpn-server',
    paths,
  );
  if (port >= 1024) return text;
  return text.replaceAll(
    /^(AmbientCapabilities|CapabilityBoundingSet)=.*/gm,
    (line) => `${line} CAP_NET_BIND_SERVICE`,
  );
}

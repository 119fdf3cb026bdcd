/** The server as a service of systemd: its unit printed, installed and removed. */
import { VpnError } from '../shared/errors.ts';
import type { CommandSpec, Output, ProgramSpec } from '../shared/program.ts';
import { requireNetAdmin } from '../shared/system/require-tun.ts';
import {
  installUnit,
  isEnabled,
  ownPaths,
  thisUnitHost,
  uninstallUnit,
} from '../shared/system/systemd-unit.ts';
import { clientFiles, moveClientFiles, placeApart } from './client-files.ts';
import {
  callServer,
  findPlace,
  type Place,
  type PlaceOptions,
  readConfiguration,
} from './place.ts';
import { CONFIG } from './place-options.ts';

const NAME = 'vpn-server.service';
const UNIT = { name: NAME, instance: NAME } as const;

export const serviceGroup: ProgramSpec = {
  name: 'service',
  summary: 'keep the server up whenever this host is, by systemd',
  examples: [
    'vpn-server service install',
    'vpn-server service > /etc/systemd/system/vpn-server.service',
  ],
};

const print: CommandSpec<PlaceOptions> = {
  usage: 'print',
  summary: 'print the systemd unit of the server, with the paths of this installation',
  examples: [
    'vpn-server service > /etc/systemd/system/vpn-server.service',
    'vpn-server service --config /etc/culvert/server.yaml',
  ],
  options: [CONFIG],
  isDefault: true,
  run: async ({ options, output, env }) => {
    const unit = await textFor(findPlace(options, env), output);
    output.facts({ unit }, unit.trimEnd());
    warnOfClients(output);
    return undefined;
  },
};

const install: CommandSpec<PlaceOptions> = {
  usage: 'install',
  summary: 'keep the server up from now on, and after each boot',
  examples: [
    'vpn-server service install',
    'vpn-server service install --config /etc/culvert/server.yaml',
  ],
  options: [CONFIG],
  run: async ({ options, output, env }) => {
    requireNetAdmin();
    const host = thisUnitHost();
    const place = findPlace(options, env);
    const text = await textFor(place, output);
    if (!isEnabled(host, UNIT)) await requireDown(place);
    if (!host.isBooted) warnOfClients(output);
    const moved = host.isBooted ? await moveClientFiles(findPlace({}, {})) : [];
    for (const line of moved) output.talk(line);
    const { done, outdated } = await installUnit(host, UNIT, text);
    output.facts(
      { unit: NAME, started: host.isBooted, restartNeeded: outdated },
      [...done, 'to undo: vpn-server service uninstall'].join('\n'),
    );
    return undefined;
  },
};

const uninstall: CommandSpec<object> = {
  usage: 'uninstall',
  summary: 'stop the server, and start it no more; what it knows stays',
  examples: ['vpn-server service uninstall', 'vpn-server service uninstall --json'],
  run: async ({ output }) => {
    requireNetAdmin();
    const done = await uninstallUnit(thisUnitHost(), UNIT);
    output.facts({ unit: NAME }, done.join('\n'));
    return undefined;
  },
};

export const serviceCommands = [print, install, uninstall] as const;

/** The unit; warns of what it cannot read. Errors: CONFIG_*. */
async function textFor(place: Place, output: Output): Promise<string> {
  const { hiddenFromService, unitText } = await import('./service-unit.ts');
  const { listen } = await readConfiguration(place, {});
  const paths = ownPaths(import.meta.url);
  for (const path of [paths.node, paths.program]) {
    const hidden = hiddenFromService(path);
    if (hidden === null) continue;
    output.warn(`the service cannot read ${path}, because of ${hidden}: install it in /opt`);
  }
  return unitText(paths, listen.port);
}

/** Who starts the service by hand has to move what a client has in its directories. */
function warnOfClients(output: Output): void {
  for (const path of clientFiles(findPlace({}, {}))) {
    const where = `${placeApart(path)}, where vpn-client looks then`;
    output.warn(`the service takes over ${path}: disconnect, and move it to ${where}`);
  }
}

/** A server in the foreground would keep the service from starting. Errors: ALREADY_RUNNING. */
async function requireDown(place: Place): Promise<void> {
  try {
    await callServer(place, 'status', {});
  } catch (error) {
    if (error instanceof VpnError && error.code === 'NOT_RUNNING') return;
    throw error;
  }
  throw new VpnError('ALREADY_RUNNING', 'the server is running already', {
    hint: 'Run `vpn-server stop` first; the service starts it again.',
  });
}

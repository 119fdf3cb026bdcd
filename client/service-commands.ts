/** The commands about tunnels as services of systemd: their options and their help. */
import type { CommandSpec, ProgramSpec } from '../shared/program.ts';
import { requireNetAdmin } from '../shared/system/require-tun.ts';
import { findPlace } from './place.ts';

export const serviceGroup: ProgramSpec = {
  name: 'service',
  summary: 'keep a tunnel up whenever this host is, by systemd',
  examples: [
    'vpn-client service install office.conf',
    'vpn-client service > /etc/systemd/system/vpn-client@.service',
  ],
};

const print: CommandSpec<object> = {
  usage: 'print',
  summary: 'print the systemd unit of the client, with the paths of this installation',
  examples: [
    'vpn-client service > /etc/systemd/system/vpn-client@.service',
    'vpn-client service print --json',
  ],
  isDefault: true,
  run: async ({ output }) => {
    const { printUnit } = await import('./service.ts');
    return printUnit(output);
  },
};

const install: CommandSpec<object> = {
  usage: 'install <target>',
  summary: 'keep the tunnel to HOST:PORT or of a profile up from now on, and after each boot',
  examples: [
    'vpn-client service install office.conf',
    'vpn-client service install server.example:6000',
  ],
  run: async ({ args, output }) => {
    requireNetAdmin();
    const { installService, thisServiceHost } = await import('./service.ts');
    // What the service itself will find, whatever our own environment says.
    return installService(args[0]!, findPlace({}, {}), output, thisServiceHost());
  },
};

const uninstall: CommandSpec<object> = {
  usage: 'uninstall <target>',
  summary: 'end that tunnel, and start it no more; its profile and its keys stay',
  examples: [
    'vpn-client service uninstall office',
    'vpn-client service uninstall server.example:6000 --json',
  ],
  run: async ({ args, output }) => {
    requireNetAdmin();
    const { thisServiceHost, uninstallService } = await import('./service.ts');
    return uninstallService(args[0]!, output, thisServiceHost());
  },
};

export const serviceCommands = [print, install, uninstall] as const;

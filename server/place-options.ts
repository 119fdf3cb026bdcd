/** Options by which every command of the server finds its instance (place.ts). */
import { Option } from 'commander';

export const STATE = new Option('--state <dir>', 'state directory (default /var/lib/culvert)');
export const RUN = new Option(
  '--run <dir>',
  'directory of the control socket (default /run/culvert)',
);
export const CONFIG = new Option('--config <file>', 'settings (default /etc/culvert/server.yaml)');

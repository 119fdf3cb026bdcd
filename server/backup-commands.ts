/** `vpn-server backup` and `vpn-server restore`. */
import { resolve } from 'node:path';
import { Option } from 'commander';
import { counted } from '../shared/counted.ts';
import { VpnError } from '../shared/errors.ts';
import type { CommandSpec } from '../shared/program.ts';
import { callServer, findPlace, type Place, type PlaceOptions } from './place.ts';
import { RUN, STATE } from './place-options.ts';

interface BackupOptions extends PlaceOptions {
  readonly force?: boolean;
}

export const backupCommand: CommandSpec<BackupOptions> = {
  usage: 'backup <file>',
  summary: 'write everything that must not be lost into one file; the server may run',
  examples: ['vpn-server backup /root/culvert.backup', 'vpn-server backup culvert.backup --force'],
  options: [STATE, RUN, new Option('--force', 'replace FILE when it exists')],
  run: async ({ args, options, output, env }) => {
    const directory = await stateDirectoryOf(findPlace(options, env));
    const { backUp } = await import('./backup.ts');
    const { force: replace = false } = options;
    const reply = backUp(directory, resolve(args[0]!), { now: unixNow(), replace });
    if (output.json) output.print(JSON.stringify(reply));
    else
      output.talk(
        `${reply.file} has ${counted(reply.peers, 'peer')} and the server's private key.`,
      );
    return undefined;
  },
};

interface RestoreOptions extends PlaceOptions {
  readonly replace?: boolean;
}

export const restoreCommand: CommandSpec<RestoreOptions> = {
  usage: 'restore <file>',
  summary: 'put a backup in place; the server must be stopped, what was there is kept',
  examples: [
    'vpn-server restore /root/culvert.backup',
    'vpn-server restore /root/culvert.backup --replace',
  ],
  options: [STATE, new Option('--replace', 'also when the present store is in order')],
  run: async ({ args, options, output, env }) => {
    const { stateDirectory } = findPlace(options, env);
    const { restore } = await import('./backup.ts');
    const { replace = false } = options;
    const reply = restore(stateDirectory, resolve(args[0]!), { now: unixNow(), replace });
    if (output.json) {
      output.print(JSON.stringify(reply));
      return undefined;
    }
    output.talk(`${stateDirectory} is as on ${reply.made}, with ${counted(reply.peers, 'peer')}.`);
    if (reply.replaced !== null) output.talk(`What was there is in ${reply.replaced}.`);
    output.talk('Devices that came in after that day are unknown to it: `vpn-server peers`.');
    return undefined;
  },
};

/** Of the running server, which may have been started elsewhere; else as named. */
async function stateDirectoryOf(place: Place): Promise<string> {
  try {
    return (await callServer<{ stateDirectory: string }>(place, 'place', {})).stateDirectory;
  } catch (error) {
    if (!(error instanceof VpnError) || error.code !== 'NOT_RUNNING') throw error;
    return place.stateDirectory;
  }
}

function unixNow(): number {
  return Math.floor(Date.now() / 1000);
}

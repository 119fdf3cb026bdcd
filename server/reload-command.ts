/** `vpn-server reload`. */
import type { CommandSpec } from '../shared/program.ts';
import { callServer, findPlace, type PlaceOptions } from './place.ts';
import { RUN, STATE } from './place-options.ts';
import type { ReloadReply } from './reload.ts';

export const reloadCommand: CommandSpec<PlaceOptions> = {
  usage: 'reload',
  summary: 'read the settings again and apply what changed; nobody is dropped',
  examples: ['vpn-server reload', 'vpn-server reload --json'],
  options: [STATE, RUN],
  run: async ({ options, output, env }) => {
    const reply = await callServer<ReloadReply>(findPlace(options, env), 'reload', {});
    if (output.json) {
      output.print(JSON.stringify(reply));
      return undefined;
    }
    const { changed, atNextStart, notes } = reply;
    output.talk(
      changed.length === 0 ? 'Nothing to apply.' : `In force now: ${changed.join(', ')}.`,
    );
    if (atNextStart.length > 0) {
      output.talk(`Takes effect at the next start: ${atNextStart.join(', ')}.`);
    }
    for (const note of notes) output.warn(note);
    return undefined;
  },
};

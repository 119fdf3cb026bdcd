/** Commands about the host that the server runs on: what is wrong with it, and back to what it was. */
import { ExitCode } from '../shared/errors.ts';
import type { CommandSpec } from '../shared/program.ts';
import type { Check } from './doctor.ts';
import { callServer, findPlace, type PlaceOptions } from './place.ts';
import { RUN, STATE } from './place-options.ts';

export const doctorCommand: CommandSpec<PlaceOptions> = {
  usage: 'doctor',
  summary: 'say why clients are connected but reach nothing beyond this host; exit code 1 then',
  examples: ['vpn-server doctor', 'vpn-server doctor --json'],
  options: [STATE, RUN],
  run: async ({ options, output, env }) => {
    const checks = await callServer<Check[]>(findPlace(options, env), 'doctor', {});
    const { checksText } = await import('./doctor.ts');
    const ok = checks.every((check) => check.ok);
    output.facts({ ok, checks }, checksText(checks));
    return ok ? ExitCode.ok : ExitCode.other;
  },
};

export const cleanupCommand: CommandSpec<PlaceOptions> = {
  usage: 'cleanup',
  summary: 'undo what a killed server left on this host',
  examples: ['vpn-server cleanup', 'vpn-server cleanup --run /run/culvert --json'],
  options: [STATE, RUN],
  run: async ({ options, output, env }) => {
    const { cleanUp } = await import('./cleanup.ts');
    const { stateDirectory, runDirectory } = findPlace(options, env);
    const reply = await cleanUp(stateDirectory, runDirectory);
    const text = reply.undone.map((what) => `undone: ${what}`).join('\n');
    output.facts(reply, text === '' ? 'There was nothing to undo.' : text);
    return undefined;
  },
};

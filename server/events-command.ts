/** `vpn-server events`: what happened lately, and with --follow what happens from now on. */
import { Option } from 'commander';
import { VpnError } from '../shared/errors.ts';
import type { CommandSpec, Output } from '../shared/program.ts';
import { followLocalSocket } from '../shared/system/local-socket.ts';
import type { ServerEvent } from './events.ts';
import { callServer, findPlace, type PlaceOptions } from './place.ts';
import { RUN, STATE } from './place-options.ts';

interface EventsOptions extends PlaceOptions {
  readonly follow?: boolean;
}

export function eventsCommand(): CommandSpec<EventsOptions> {
  return {
    usage: 'events',
    summary: 'show what happened lately: who came, roamed, left, was refused and why',
    examples: ['vpn-server events', 'vpn-server events --follow --json'],
    options: [STATE, RUN, new Option('-f, --follow', 'go on with what happens from now on')],
    run: async ({ options, output, env }) => {
      const place = findPlace(options, env);
      if (options.follow !== true) {
        const { events } = await callServer<EventsReply>(place, 'events', {});
        for (const event of events) print(output, event);
        return undefined;
      }
      const reader = new AbortController();
      output.onReaderGone(() => reader.abort());
      const stopped = await followLocalSocket(
        place.socketPath,
        'follow',
        {},
        {
          onNotification: (event) => print(output, event as ServerEvent),
          signal: reader.signal,
        },
      );
      if (stopped) throw new VpnError('NOT_RUNNING', 'the server has stopped');
      return undefined;
    },
  };
}

export interface EventsReply {
  readonly events: readonly ServerEvent[];
}

/** One line each. */
function print(output: Output, event: ServerEvent): void {
  const { time, type, ...facts } = event;
  const shown = Object.entries(facts).map(([name, value]) => `${name}=${value}`);
  output.facts(event, [time, type, ...shown].join(' '));
}

/** `vpn-server config check` and `config show`: what the settings of an instance are, and say. */
import { resolve } from 'node:path';
import { VpnError } from '../shared/errors.ts';
import type { CommandSpec } from '../shared/program.ts';
import type { SettingFacts } from './configuration-report.ts';
import {
  callServer,
  findPlace,
  type Place,
  type PlaceOptions,
  readConfiguration,
  savedFlags,
} from './place.ts';
import { CONFIG, RUN, STATE } from './place-options.ts';
import { table } from './report.ts';

/** What the server answers to `configuration`. */
export interface ConfigurationReply {
  readonly running: boolean;
  readonly settings: readonly SettingFacts[];
  readonly warnings: readonly string[];
}

/** What it answers to `checkConfiguration`. */
export interface CheckReply {
  readonly file: string | null;
  readonly warnings: readonly string[];
}

export const configCheckCommand: CommandSpec<PlaceOptions> = {
  usage: 'check [file]',
  summary: 'check the settings of the next start, without starting',
  examples: ['vpn-server config check', 'vpn-server config check ./server.yaml'],
  options: [CONFIG, STATE, RUN],
  run: async ({ args, options, output, env }) => {
    const given = args[0] === undefined ? undefined : resolve(args[0]);
    const place = findPlace(given === undefined ? options : { ...options, config: given }, env);
    const { file, warnings } = await check(place, given ?? options.config ?? null);
    if (output.json) output.print(JSON.stringify({ file, warnings }));
    for (const warning of output.json ? [] : warnings) output.warn(warning);
    if (!output.json)
      output.talk(file === null ? 'There is no file; all is good.' : `${file} is good.`);
    return undefined;
  },
};

/** By the running server, with the flags and the environment it has; else as a start would. */
async function check(place: Place, named: string | null): Promise<CheckReply> {
  const file = named === null ? null : resolve(named);
  const running = await ifRunning<CheckReply>(place, 'checkConfiguration', { file });
  if (running !== null) return running;
  const { flags, configPath } = await savedFlags(place);
  const { warnings } = await readConfiguration({ ...place, configPath }, flags);
  return { file: configPath, warnings };
}

async function ifRunning<T>(place: Place, method: string, params: unknown): Promise<T | null> {
  try {
    return await callServer<T>(place, method, params);
  } catch (error) {
    if (error instanceof VpnError && error.code === 'NOT_RUNNING') return null;
    throw error;
  }
}

export const configShowCommand: CommandSpec<PlaceOptions> = {
  usage: 'show',
  summary: 'show every setting in force, and where it comes from',
  examples: ['vpn-server config show', 'vpn-server config show --json'],
  options: [CONFIG, STATE, RUN],
  run: async ({ options, output, env }) => {
    const reply = await readReply(findPlace(options, env));
    const text = table([
      ['SETTING', 'VALUE', 'FROM'],
      ...reply.settings.map(({ name, value, where }) => [name, shown(value), where ?? 'default']),
    ]);
    output.facts(reply, text);
    if (!output.json) for (const warning of reply.warnings) output.warn(warning);
    const whose = reply.running ? 'The server runs with these.' : 'A start now would use these.';
    output.talk(whose);
    return undefined;
  },
};

/** Of the running server, else what a start with the flags of the last one would use. */
async function readReply(place: Place): Promise<ConfigurationReply> {
  const running = await ifRunning<ConfigurationReply>(place, 'configuration', {});
  if (running !== null) return running;
  const { flags, configPath } = await savedFlags(place);
  const configuration = await readConfiguration({ ...place, configPath }, flags);
  const { settingFacts } = await import('./configuration-report.ts');
  const { warnings } = configuration;
  return { running: false, settings: settingFacts(configuration), warnings };
}

function shown(value: unknown): string {
  if (value === null) return '-';
  if (Array.isArray(value) && value.every((item) => typeof item === 'string')) {
    return value.join(', ') || 'none';
  }
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/**
 * What the operator should know about settings and peers that do not go together, at start and
 * after a reload: sentences. Pure.
 */
import { nearestName } from '../shared/nearest-name.ts';
import type { ServerConfiguration } from './configuration.ts';
import { outdatedParts, type ProfileSources } from './printed-profile.ts';
import type { Registry } from './registry.ts';

export interface NoteSources extends ProfileSources {
  readonly configuration: ServerConfiguration;
  readonly registry: Pick<Registry, 'address6Of' | 'peers'>;
  /** Names of open invites. */
  readonly invited: readonly string[];
}

export function settingNotes(sources: NoteSources): string[] {
  const { configuration, registry, invited } = sources;
  const { groups, peers, origins } = configuration;
  const records = [...registry.peers()].map(({ record }) => record);
  const known = new Set([...records.map(({ name }) => name), ...invited]);
  const strangers = [...peers.keys()].filter((name) => !known.has(name));
  const astray = records.filter(({ group }) => group !== null && !groups.has(group));
  return [
    ...strangers.map((name) => {
      const near = nearestName(name, [...known]);
      const help = near === null ? '' : `; did you mean ${near}?`;
      return `${origins.get(`peers.${name}`)} there is no peer called ${name} yet${help}`;
    }),
    ...astray.map(({ name, group }) => `${name} is in the group ${group}, which has no settings`),
    ...records.flatMap((record) => {
      const parts = outdatedParts(record, sources).join(', ');
      if (parts === '') return [];
      return [`the profile printed for ${record.name} is out of date: ${parts}; change it there`];
    }),
  ];
}

/** `vpn-server import`: takes people over from another server. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Option } from 'commander';
import { writeKeyFile } from '../keys/key-file.ts';
import { keyToBase64 } from '../keys/keypair.ts';
import { counted } from '../shared/counted.ts';
import { VpnError } from '../shared/errors.ts';
import type { CommandSpec } from '../shared/program.ts';
import { makeDirectory } from '../shared/system/make-directory.ts';
import type { ImportReply } from './import.ts';
import type { Imported } from './import-file.ts';
import { administer, findPlace, type Place, type PlaceOptions } from './place.ts';
import { CONFIG, RUN, STATE } from './place-options.ts';

interface ImportOptions extends PlaceOptions {
  readonly plan?: boolean;
  readonly identity?: boolean;
}

export const importCommand: CommandSpec<ImportOptions> = {
  usage: 'import <path>',
  summary: "take people over from wg0.conf, OpenVPN's ipp.txt or its client-config-dir",
  examples: [
    'vpn-server import /etc/wireguard/wg0.conf --plan',
    'vpn-server import /etc/openvpn/ccd',
  ],
  options: [
    CONFIG,
    STATE,
    RUN,
    new Option('--plan', 'say what would be done and change nothing'),
    new Option('--identity', "before the first start: take the old server's own key as well"),
  ],
  run: async ({ args, options, output, env }) => {
    const { readImport } = await import('./import-file.ts');
    const imported = readImport(args[0]!);
    const place = findPlace(options, env);
    const plan = options.plan === true;
    if (options.identity === true) takeIdentity(place, imported, plan);
    const base64 = <K extends Uint8Array>(key: K | null) => key && keyToBase64(key as never);
    const people = imported.peers.map((peer) => ({
      ...peer,
      publicKey: base64(peer.publicKey),
      presharedKey: base64(peer.presharedKey),
    }));
    const call = { method: 'import', params: { people, plan }, create: true };
    const act = (at: Place) =>
      administer<ImportReply>(at, call, (a) => a.import(imported.peers, plan));
    const reply = plan ? await withoutTrace(place, act) : await act(place);
    const notes = [...imported.notes, ...reply.notes];
    for (const note of notes) output.talk(note);
    output.facts({ ...reply, notes, plan }, textOf(reply, plan));
    return undefined;
  },
};

/** Where no server has been yet, a plan is tried in a folder that goes again. */
async function withoutTrace<T>(place: Place, act: (at: Place) => Promise<T>): Promise<T> {
  if (existsSync(place.stateDirectory)) return act(place);
  const folder = mkdtempSync(join(tmpdir(), 'culvert-plan-'));
  try {
    return await act({ ...place, stateDirectory: folder });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Only where no server has been yet: everybody else knows it by the key it has. */
function takeIdentity({ stateDirectory }: Place, { privateKey }: Imported, plan: boolean): void {
  if (privateKey === null) {
    throw new VpnError('IMPORT_REFUSED', 'the file has no PrivateKey of a server');
  }
  const path = join(stateDirectory, 'identity.key');
  if (existsSync(path)) {
    throw new VpnError('STATE_IN_USE', `${stateDirectory} has an identity already`, {
      hint: 'Import with --identity into a new state directory, before the first start.',
    });
  }
  if (plan) return;
  makeDirectory(stateDirectory, 0o700);
  writeKeyFile(path, privateKey);
}

function textOf({ peers, reservations, skipped }: ImportReply, plan: boolean): string {
  const line = ({ name, address, networks }: ImportReply['peers'][number]) =>
    `  ${[name, address ?? 'next free address', ...networks].join('  ')}`;
  return [
    `${plan ? 'would import' : 'imported'} ${counted(peers.length, 'peer')}`,
    ...peers.map(line),
    ...(reservations.length === 0
      ? []
      : [`${reservations.length} reserved until \`vpn-server invite NAME\``]),
    ...reservations.map(line),
    ...(skipped.length === 0 ? [] : [`here already: ${skipped.join(', ')}`]),
  ].join('\n');
}

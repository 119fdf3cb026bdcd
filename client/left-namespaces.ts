/**
 * What clients that are gone have left of tunnels in namespaces, as it shows without their
 * journals. Namespaces and their files are one set for the whole host, so both say whose they are:
 * a namespace that a client made by the alias of its `lo`, a resolver file by its second line. Who
 * uses a namespace that somebody else made leaves no more than that file.
 */
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { readHostFile } from '../shared/system/host-file.ts';
import type { Command } from '../shared/system/journal.ts';
import type { Run } from '../shared/system/run.ts';
import { ownerIn } from './place.ts';
import {
  formerIn,
  isEdited,
  NAMESPACE_FILES,
  NOTE,
  putBack,
  putBackAdvice,
} from './resolver-file.ts';

export type LeftInNamespace = {
  /** For people: `namespace office`. */
  readonly what: string;
  readonly netns: string;
  /** Run directory of the client. */
  readonly owner: string;
} & ({ readonly undo: Command } | { readonly file: string });

interface LinkRow {
  readonly ifname?: string;
  readonly ifalias?: string;
  readonly linkinfo?: { readonly info_kind?: string };
}

/**
 * Of one namespace, or of all of this host (null), in the order to undo it; where a tunnel is in
 * the namespace, nothing is left. What may not be looked at is left out. Errors: COMMAND_FAILED,
 * COMMAND_MISSING.
 */
export async function findLeftNamespaces(
  run: Run,
  only: string | null = null,
  files = NAMESPACE_FILES,
): Promise<LeftInNamespace[]> {
  const { stdout } = await run('ip', ['-json', 'netns', 'list']);
  const there = (JSON.parse(stdout || '[]') as { name: string }[]).map(({ name }) => name);
  const found: LeftInNamespace[] = [];
  const all = [...new Set([...there, ...foldersIn(files)])];
  for (const netns of all.filter((name) => only === null || name === only)) {
    const links = there.includes(netns) ? await linksOf(netns, run) : [];
    if (links === null || links.some(({ linkinfo }) => linkinfo?.info_kind === 'tun')) continue;
    const file = join(files, netns, 'resolv.conf');
    const writer = writerOf(file);
    if (writer !== null) found.push({ what: `file ${file}`, netns, owner: writer, file });
    const maker = ownerIn(links.find(({ ifname }) => ifname === 'lo')?.ifalias);
    if (maker === null) continue;
    const undo: Command = ['ip', 'netns', 'delete', netns];
    found.push({ what: `namespace ${netns}`, netns, owner: maker, undo });
  }
  return found;
}

/**
 * Removes what is left, and puts back what a file says was in its place; of a file also the folders
 * that are empty then. Errors: COMMAND_FAILED, those of node:fs.
 */
export async function undoLeft(left: LeftInNamespace, run: Run): Promise<void> {
  if ('file' in left) {
    const { file } = left;
    if (isEdited(file)) throw new Error('somebody has edited it since');
    const folder = dirname(file);
    const former = formerIn(file) ?? { kind: 'missing' };
    putBack(file, former, [dirname(folder), folder]);
  } else {
    const [program, ...args] = left.undo;
    await run(program, args);
  }
}

/** What people may do when undoLeft() cannot. */
export function undoAdvice(left: LeftInNamespace): string {
  return 'file' in left ? putBackAdvice(left.file) : `try \`${left.undo.join(' ')}\``;
}

/** null: it may not be looked at, or has gone meanwhile. */
async function linksOf(netns: string, run: Run): Promise<readonly LinkRow[] | null> {
  try {
    const { stdout } = await run('ip', ['-n', netns, '-json', '-details', 'link', 'show']);
    return JSON.parse(stdout || '[]') as LinkRow[];
  } catch {
    return null;
  }
}

function foldersIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** null: it is not there, or not that of a tunnel in this namespace. */
function writerOf(file: string): string | null {
  let text: string;
  try {
    text = readHostFile(file);
  } catch {
    return null;
  }
  const [line] = text.slice(NOTE.length).split('\n');
  return text.startsWith(NOTE) && line?.startsWith('# ') ? ownerIn(line.slice('# '.length)) : null;
}

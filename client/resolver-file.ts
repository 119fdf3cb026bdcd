/**
 * The text of a resolver file that a tunnel has written: says whose it is, and as comments what was
 * in its place, so that also after a loss of power, when no journal is left, it can be put back. Its
 * last line has digits of all above: what somebody has edited since is his.
 */
import { readFileSync } from 'node:fs';
import { toHex } from '../shared/bytes.ts';
import { fingerprint } from '../shared/node-crypto.ts';
import { type FormerFile, readFormer, restoreFile } from '../shared/system/file-change.ts';
import { readHostFile } from '../shared/system/host-file.ts';

/** The host's. */
export const RESOLV_CONF = '/etc/resolv.conf';
/** Folders of files that `ip netns exec` shows in place of those in /etc. */
export const NAMESPACE_FILES = '/etc/netns';
/** First line of every one. */
export const NOTE = '# Written by vpn-client while its tunnel is up; it puts back what was here.\n';
/** A larger file is not kept within another. */
const MAX_BYTES = 1 << 16;
const BEFORE = /^# Before: (?:(missing)|link (.+)|file ([0-7]+) (\d+) (\d+))$/m;
const KEPT = '#|';
const SUM = '# Sum: ';
const SUM_DIGITS = 16;

/** A whole file: `mark` in its second line, the text of resolv.conf(5), and what was at `path` before a tunnel's. */
export function resolverFile(path: string, mark: string | undefined, text: string): string {
  const second = mark === undefined ? '' : `# ${mark}\n`;
  const body = `${NOTE}${second}${text}${beforeText(path)}`;
  return body + sumLine(body);
}

/** Whether a file is that of a tunnel, also when somebody has edited it. */
export function startsWithNote(path: string): boolean {
  return textOf(path).startsWith(NOTE);
}

/** A tunnel's file as a tunnel wrote it. */
export function isWhole(text: string): boolean {
  const at = text.lastIndexOf(SUM);
  return text.startsWith(NOTE) && at !== -1 && text.slice(at) === sumLine(text.slice(0, at));
}

/** Whether the tunnel's file at `path` was edited: it is somebody's own now. */
export function isEdited(path: string): boolean {
  const text = textOf(path);
  // One that a crash has cut short has no such line.
  return text.startsWith(NOTE) && text.includes(`\n${SUM}`) && !isWhole(text);
}

/** What was at `path` before the tunnel's file, as that says; null: it does not, is edited, or is none. */
export function formerIn(path: string): FormerFile | null {
  const text = textOf(path);
  const found = isWhole(text) ? BEFORE.exec(text) : null;
  if (found === null) return null;
  const [line, missing, target, mode, uid, gid] = found;
  if (missing !== undefined) return { kind: 'missing' };
  if (target !== undefined) return { kind: 'link', target };
  const lines = text.slice(found.index + line.length + 1).split('\n');
  const end = lines.findIndex((one) => !one.startsWith(KEPT));
  const content = lines.slice(0, end === -1 ? undefined : end).map((one) => one.slice(KEPT.length));
  return {
    kind: 'file',
    base64: Buffer.from(content.join('\n'), 'latin1').toString('base64'),
    ...{ mode: Number.parseInt(mode!, 8), uid: Number(uid), gid: Number(gid) },
  };
}

/**
 * Puts `former` in place of the tunnel's file at `path`; `folders`, outermost first, go when they
 * are empty then. Errors: those of node:fs.
 */
export function putBack(path: string, former: FormerFile, folders: readonly string[] = []): void {
  restoreFile(path, former, readFileSync(path), folders);
}

/** What people may do when putBack() cannot. */
export function putBackAdvice(path: string): string {
  const former = formerIn(path);
  if (!isEdited(path) && (former === null || former.kind === 'missing'))
    return `try \`rm ${path}\``;
  return `its last lines say what was in its place`;
}

/** Empty for what cannot be told in comments, or could not be replaced anyway. */
function beforeText(path: string): string {
  let former: FormerFile;
  try {
    former = formerIn(path) ?? readFormer(path);
  } catch {
    return '';
  }
  if (former.kind === 'missing') return '# Before: missing\n';
  if (former.kind === 'link') {
    return former.target.includes('\n') ? '' : `# Before: link ${former.target}\n`;
  }
  const content = Buffer.from(former.base64, 'base64');
  if (content.length > MAX_BYTES) return '';
  // Latin-1 has a character for every byte.
  const lines = content.toString('latin1').split('\n');
  const { mode, uid, gid } = former;
  const head = `# Before: file ${mode.toString(8)} ${uid} ${gid}`;
  return `${[head, ...lines.map((line) => KEPT + line)].join('\n')}\n`;
}

function sumLine(body: string): string {
  const digits = toHex(fingerprint(new TextEncoder().encode(body))).slice(0, SUM_DIGITS);
  return `${SUM}${digits}\n`;
}

function textOf(path: string): string {
  try {
    return readHostFile(path);
  } catch {
    return '';
  }
}

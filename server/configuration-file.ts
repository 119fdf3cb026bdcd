/**
 * server.yaml as a flat list of settings with their positions. Knows YAML and which names exist;
 * what a value means is configuration.ts. Loaded only when there is a file.
 */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml';
import { VpnError } from '../shared/errors.ts';
import { nearestName } from '../shared/nearest-name.ts';

export interface FileSetting {
  /** Plain data: strings, numbers, booleans, null and lists of them. */
  readonly value: unknown;
  /** `server.yaml:12:9`. */
  readonly where: string;
}

/**
 * Reads the file; the keys of the result are paths such as `push.routes`, all of them in `known`.
 * Throws VpnError CONFIG_UNREADABLE or CONFIG_INVALID with line and column.
 */
export function readConfigurationFile(
  path: string,
  known: readonly string[],
): Map<string, FileSetting> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new VpnError('CONFIG_UNREADABLE', `cannot read ${path}`, { cause });
  }
  return parseConfiguration(text, basename(path), known);
}

/** As readConfigurationFile(), from the text; `name` is what errors call it. */
export function parseConfiguration(
  text: string,
  name: string,
  known: readonly string[],
): Map<string, FileSetting> {
  const lines = new LineCounter();
  const document = parseYaml(text, name, lines);
  const whereIs = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${name}:${line}:${col}`;
  };
  const problem = document.errors[0];
  if (problem !== undefined) throw invalid(whereIs(problem.pos[0]), problem.message);

  const settings = new Map<string, FileSetting>();
  const walk = (node: Node | null, prefix: string, at: string): void => {
    if (node === null || (isScalar(node) && node.value === null)) return;
    if (!isMap(node)) throw invalid(at, `${prefix || 'the file'} must be a list of key: value`);
    for (const { key, value } of node.items) {
      if (!isScalar(key)) throw invalid(at, 'a key must be a plain word');
      const path = prefix === '' ? String(key.value) : `${prefix}.${key.value}`;
      const keyAt = whereIs(key.range?.[0] ?? 0);
      const child = value as Node | null;
      const where = child?.range ? whereIs(child.range[0]) : keyAt;
      if (isAlias(child)) throw invalid(where, 'aliases are not supported');
      if (known.some((k) => k.startsWith(`${path}.`))) {
        walk(child, path, where);
      } else if (known.includes(path)) {
        if (isMap(child)) throw invalid(where, `${path} is a single value or a list`);
        const plain = isSeq(child) || isScalar(child) ? child.toJSON() : null;
        settings.set(path, { value: plain, where });
      } else {
        throw invalid(keyAt, unknownKey(path, known));
      }
    }
  };
  walk(document.contents, '', `${name}:1:1`);
  return settings;
}

/** The document with its errors; the parser itself gives up on thousands of levels. */
function parseYaml(text: string, name: string, lineCounter: LineCounter) {
  try {
    return parseDocument(text, { lineCounter, prettyErrors: false });
  } catch (cause) {
    throw new VpnError('CONFIG_INVALID', `${name}:1:1 the file is nested too deep`, { cause });
  }
}

function unknownKey(path: string, known: readonly string[]): string {
  const names = new Set(known.flatMap((k) => [k, k.split('.')[0]!]));
  const near = nearestName(path, [...names]);
  return `unknown key ${path}${near === null ? '' : `; did you mean ${near}?`}`;
}

function invalid(where: string, what: string): VpnError {
  return new VpnError('CONFIG_INVALID', `${where} ${what}`);
}

/**
 * server.yaml as a flat list of settings with their positions. Knows YAML and which names exist;
 * what a value means is configuration.ts. Loaded only when there is a file.
 */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { isMap, isScalar, isSeq, LineCounter, type Node, parseDocument, visit } from 'yaml';
import { VpnError } from '../shared/errors.ts';
import { nearestName } from '../shared/nearest-name.ts';

export interface FileSetting {
  /** `['peers', 'laptop', 'address']`. */
  readonly path: readonly string[];
  /** Plain data: strings, numbers, booleans, null and lists of them. */
  readonly value: unknown;
  /** `server.yaml:12:9`. */
  readonly where: string;
  /** The same for each item of a list. */
  readonly items: readonly string[];
}

export interface ConfigurationFile {
  readonly settings: readonly FileSetting[];
  /** What is wrong with names and structure, each with its place. */
  readonly problems: readonly string[];
}

/**
 * Reads the file. `known` names what may be set, such as `push.routes`, where `*` stands for a
 * name that the operator chooses: `peers.*.address`. Throws VpnError CONFIG_UNREADABLE, and
 * CONFIG_INVALID when it is no YAML.
 */
export function readConfigurationFile(path: string, known: readonly string[]): ConfigurationFile {
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
): ConfigurationFile {
  const lines = new LineCounter();
  const document = parseYaml(text, name, lines);
  const whereIs = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${name}:${line}:${col}`;
  };
  const problem = document.errors[0];
  if (problem?.code === 'MULTIPLE_DOCS') {
    throw invalid(whereIs(problem.pos[0]), 'a second document begins: everything belongs into one');
  }
  if (problem !== undefined) throw invalid(whereIs(problem.pos[0]), problem.message);
  visit(document, {
    Alias: (_, node) => {
      throw invalid(whereIs(node.range?.[0] ?? 0), 'aliases are not supported');
    },
  });
  const reader = new Reader(known, whereIs);
  reader.map(document.contents, [], `${name}:1:1`);
  return reader;
}

/** Walks the document; collects what it finds. */
class Reader implements ConfigurationFile {
  readonly settings: FileSetting[] = [];
  readonly problems: string[] = [];
  readonly #known: readonly (readonly string[])[];
  readonly #whereIs: (offset: number) => string;

  constructor(known: readonly string[], whereIs: (offset: number) => string) {
    this.#known = known.map((pattern) => pattern.split('.'));
    this.#whereIs = whereIs;
  }

  map(node: Node | null, path: readonly string[], at: string): void {
    if (node === null || (isScalar(node) && node.value === null)) return;
    if (!isMap(node)) {
      this.problems.push(`${at} ${path.join('.') || 'the file'} must be a list of key: value`);
      return;
    }
    for (const { key, value } of node.items) {
      if (isScalar(key)) this.#entry([...path, String(key.value)], key, value as Node | null);
      else this.problems.push(`${at} a key must be a plain word`);
    }
  }

  #entry(path: readonly string[], key: Node, value: Node | null): void {
    const keyAt = this.#whereIs(key.range?.[0] ?? 0);
    const where = value?.range ? this.#whereIs(value.range[0]) : keyAt;
    const matching = this.#known.filter((pattern) => leadsTo(pattern, path));
    if (matching.length === 0) {
      this.problems.push(`${keyAt} ${this.#unknown(path)}`);
    } else if (matching.some((pattern) => pattern.length === path.length)) {
      this.#value(path, value, where);
    } else {
      // The operator's own names count, even with nothing under them.
      if (matching.every((pattern) => pattern[path.length - 1] === '*')) {
        this.settings.push({ path, value: null, where: keyAt, items: [] });
      }
      this.map(value, path, where);
    }
  }

  #value(path: readonly string[], node: Node | null, where: string): void {
    if (isMap(node)) {
      this.problems.push(`${where} ${path.join('.')} is a single value or a list`);
      return;
    }
    const items = isSeq(node) ? (node.items as Node[]) : [];
    this.settings.push({
      path,
      value: isSeq(node) || isScalar(node) ? node.toJSON() : null,
      where,
      items: items.map((item) => (item?.range ? this.#whereIs(item.range[0]) : where)),
    });
  }

  /** What may stand there instead: a sibling with a similar name, or the same name elsewhere. */
  #unknown(path: readonly string[]): string {
    const parent = path.slice(0, -1);
    const word = path.at(-1)!;
    const siblings = this.#known
      .filter((pattern) => leadsTo(pattern, parent))
      .map((pattern) => pattern[parent.length]!)
      .filter((known) => known !== '*');
    const sibling = nearestName(word, [...new Set(siblings)]);
    const elsewhere = this.#known.find((pattern) => pattern.at(-1) === word)?.join('.');
    const near = sibling === null ? elsewhere : [...parent, sibling].join('.');
    const complaint = `unknown key ${path.join('.')}`;
    return near === undefined ? complaint : `${complaint}; did you mean ${near}?`;
  }
}

/** Whether `path` is `pattern` or lies on the way to it. */
function leadsTo(pattern: readonly string[], path: readonly string[]): boolean {
  return (
    pattern.length >= path.length &&
    path.every((word, i) => pattern[i] === '*' || pattern[i] === word)
  );
}

/** The document with its errors; the parser itself gives up on thousands of levels. */
function parseYaml(text: string, name: string, lineCounter: LineCounter) {
  try {
    return parseDocument(text, { lineCounter, prettyErrors: false });
  } catch (cause) {
    throw new VpnError('CONFIG_INVALID', `${name}:1:1 the file is nested too deep`, { cause });
  }
}

function invalid(where: string, what: string): VpnError {
  return new VpnError('CONFIG_INVALID', `${where} ${what}`);
}

/**
 * The layer rule of docs/ARCHITECTURE.md, read from import and #include lines: a file imports its
 * own layer's folder and lower ones; some things have exactly one importer.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { sqlitePackage } from '../../server/store/database.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const PRODUCT = ['shared', 'keys', 'native', 'server', 'client'];

/** First match wins. */
const LAYERS: readonly [RegExp, number][] = [
  [/^shared\/(bytes|clock|errors|node-crypto)\.ts$/, 0],
  [/^keys\/keypair\.ts$/, 0],
  [/^shared\/dataplane\.ts$/, 1],
  [/^shared\/noise\//, 1],
  [/^shared\/(session|control)\//, 2],
  [/^native\/load\.ts$/, 0],
  [/^native\//, 3],
  [/^shared\/(system|uapi)\//, 3],
  [/^shared\/uapi\/cli\.ts$/, 4],
  [/^server\/store\//, 3],
  [/^keys\/key-file\.ts$/, 3],
  [/^keys\/cli\.ts$/, 4],
  [/^shared\/[^/]+\.ts$/, 3],
  [/^(server|client|keys)\//, 4],
];

function filesOf(folder: string, extensions: RegExp): string[] {
  return readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return filesOf(path, extensions);
    return extensions.test(entry.name) ? [path] : [];
  });
}

function layerOf(file: string): number {
  const layer = LAYERS.find(([pattern]) => pattern.test(file))?.[1];
  if (layer === undefined) throw new Error(`${file} belongs to no layer`);
  return layer;
}

interface Import {
  readonly file: string;
  readonly specifier: string;
  /** Path from the root, null for packages. */
  readonly target: string | null;
}

function importsOf(file: string, text: string): Import[] {
  const pattern = /(?:^|\n)\s*(?:import|export)\b[^;'"]*?from\s*'([^']+)'|import\(\s*'([^']+)'/g;
  const bare = /(?:^|\n)import\s*'([^']+)'/g;
  return [...text.matchAll(pattern), ...text.matchAll(bare)].map((match) => {
    const specifier = match[1] ?? match[2]!;
    const target = specifier.startsWith('.') ? normalize(join(dirname(file), specifier)) : null;
    return { file, specifier, target };
  });
}

const sources = PRODUCT.flatMap((folder) => filesOf(folder, /\.ts$/));
const imports = sources.flatMap((f) => importsOf(f, readFileSync(join(ROOT, f), 'utf8')));
const importersOf = (...specifiers: string[]) => [
  ...new Set(imports.filter((i) => specifiers.includes(i.specifier)).map((i) => i.file)),
];

/** Imports that break the rule, as `file -> target`. */
function violations(all: readonly Import[]): string[] {
  const bad = all.filter(({ file, target }) => {
    if (target === null) return false;
    const [from, to] = [layerOf(file), layerOf(target)];
    // Within a layer every folder stands alone; the top layer is judged below.
    const sameFolder = dirname(file).split('/', 2).join() === dirname(target).split('/', 2).join();
    return to > from || (to === from && from === 2 && !sameFolder);
  });
  return bad.map(({ file, target }) => `${file} -> ${target}`);
}

describe('TypeScript', () => {
  test('every product file has a layer and imports only its own or a lower one', () => {
    expect(sources.length).toBeGreaterThan(10);
    for (const file of sources) expect(() => layerOf(file)).not.toThrow();
    expect(violations(imports)).toEqual([]);
  });

  test('the rule sees an import that breaks it', () => {
    const upward = importsOf('shared/noise/crypto.ts', "import { x } from '../session/engine.ts';");
    expect(violations(upward)).toEqual(['shared/noise/crypto.ts -> shared/session/engine.ts']);
    const sideways = importsOf('shared/session/a.ts', "import type { x } from '../control/b.ts';");
    expect(violations(sideways)).toHaveLength(1);
    const several = "import {\n  a,\n  b,\n} from '../../server/x.ts';\nexport * from './y.ts';";
    expect(importsOf('shared/session/a.ts', several).map((i) => i.target)).toEqual([
      'server/x.ts',
      'shared/session/y.ts',
    ]);
  });

  test('relative imports name existing files and end in .ts', () => {
    const relative = imports.filter((i) => i.target !== null);
    expect(relative.filter((i) => !i.target!.endsWith('.ts'))).toEqual([]);
    expect(relative.filter((i) => !sources.includes(i.target!))).toEqual([]);
  });

  test('server and client never import each other', () => {
    const crossing = imports.filter(
      ({ file, target }) =>
        (file.startsWith('server/') && target?.startsWith('client/')) ||
        (file.startsWith('client/') && target?.startsWith('server/')),
    );
    expect(crossing).toEqual([]);
  });

  test('only shared/node-crypto.ts imports node:crypto', () => {
    expect(importersOf('node:crypto', 'crypto')).toEqual(['shared/node-crypto.ts']);
  });

  test('the handshake takes its primitives from one file, the addon is loaded by one', () => {
    const naming = sources.filter((f) => readFileSync(join(ROOT, f), 'utf8').includes(".node'"));
    expect(naming).toEqual(['native/load.ts']);
    const loaders = imports.filter((i) => i.target === 'native/load.ts').map((i) => i.file);
    expect(loaders.sort()).toEqual(['native/index.ts', 'shared/noise/crypto.ts']);
  });

  test('vpn-keygen runs without the addon', () => {
    const reached = new Set(['keys/cli.ts']);
    // A set that grows while it is gone through.
    for (const file of reached) {
      for (const i of imports) if (i.file === file && i.target !== null) reached.add(i.target);
    }
    expect(reached).toContain('shared/node-crypto.ts');
    expect([...reached].filter((file) => file.startsWith('native/'))).toEqual([]);
  });

  test('tweetnacl is imported by keys alone', () => {
    const others = importersOf('tweetnacl').filter((file) => !file.startsWith('keys/'));
    expect(others).toEqual([]);
  });

  test('SQLite is imported by one file alone, which knows the versions of node', () => {
    expect(importersOf('better-sqlite3')).toEqual(['server/store/database.ts']);
    const { dependencies, optionalDependencies } = JSON.parse(
      readFileSync(join(ROOT, 'package.json'), 'utf8'),
    );
    expect(dependencies).toHaveProperty(sqlitePackage(10));
    expect(optionalDependencies).toHaveProperty(sqlitePackage(9));
  });

  test('the protocol core does no I/O and reads no clock', () => {
    const core = sources.filter((f) => /^shared\/(noise|session|control)\//.test(f));
    // It computes only.
    const pure = ['node:zlib'];
    const outside = imports.filter(
      ({ file, specifier }) =>
        core.includes(file) && specifier.startsWith('node:') && !pure.includes(specifier),
    );
    expect(outside).toEqual([]);
    for (const file of core) {
      const text = readFileSync(join(ROOT, file), 'utf8');
      const clocks =
        /Date\.now|new Date\(\)|performance\.now|hrtime|setTimeout|setInterval|Math\.random/;
      expect(clocks.exec(text)?.[0], file).toBeUndefined();
    }
  });

  test('argv, env and exit codes belong to cli.ts files', () => {
    const offenders = sources
      .filter((file) => !file.endsWith('cli.ts') && file !== 'shared/program.ts')
      .filter((file) =>
        /process\.(argv|exit\(|exitCode)/.test(readFileSync(join(ROOT, file), 'utf8')),
      );
    expect(offenders).toEqual([]);
  });

  test('no folder or file has a name that says nothing', () => {
    const empty = /(^|\/)(utils?|helpers?|common|types|misc)(\.|\/|$)/;
    expect(sources.filter((file) => empty.test(file))).toEqual([]);
  });
});

describe('C++', () => {
  const native = filesOf('native', /\.(h|cc)$/);
  const includersOf = (pattern: RegExp) =>
    native.filter((file) => pattern.test(readFileSync(join(ROOT, file), 'utf8')));

  test("only the addon's own files include the Node API", () => {
    expect(includersOf(/#include\s*[<"](napi|node_api|node|v8|uv)\.h[>"]/)).toEqual([
      'native/addon.h',
    ]);
    expect(includersOf(/#include\s*[<"]addon\.h[>"]/).sort()).toEqual([
      'native/addon.cc',
      'native/addon_primitives.cc',
    ]);
  });

  test('each library of ciphers is included by the files that wrap it', () => {
    expect(includersOf(/#include\s*[<"]openssl\//).sort()).toEqual([
      'native/aead_openssl.cc',
      'native/x25519.cc',
    ]);
    expect(includersOf(/#include\s*[<"](intel-ipsec-mb|ipsec-mb)/)).toEqual([
      'native/aead_ipsecmb.cc',
    ]);
  });
});

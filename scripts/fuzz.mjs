// Fuzzing: npm run fuzz -- TARGET SECONDS [--seed N] [--keep]
//   TARGET: one name, or `all`; without arguments the names are printed.
//   --keep: inputs that reach something new go to test/fuzz/corpus/TARGET, the rest is thrown away.
//   --short: every target, corpus and a second or two; what `npm test` does.
// Targets in C++ (native/fuzz_*.cc) are built with clang++-16 and libFuzzer under AddressSanitizer
// and UBSan in build/fuzz/; those in TypeScript run in test/fuzz/fuzz.test.ts. An input that breaks
// something is printed, together with how to run it again.
import { createHash, randomInt } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { inRoot, must, run } from './steps.mjs';

const COMPILER = 'clang++-16';
/** Debian packages with compiler and libFuzzer. */
export const PACKAGES = ['clang-16', 'libclang-rt-16-dev'];
const BUILD = inRoot('build/fuzz');
const SHORT_SECONDS = { native: 2, script: 1 };

/** Each target in C++: its files in native/ (fuzz_NAME.cc), largest input, system calls replaced. */
const NATIVE = {
  datagram: {
    files: ['datagram', 'tunnel', 'kernel', 'packets'],
    largest: 1024,
    wrap: [
      ...['clock_gettime', 'epoll_ctl', 'epoll_wait', 'getrandom', 'poll', 'read', 'recvmmsg'],
      ...['sendmmsg', 'sendmsg', 'writev'],
    ],
  },
  inner: { files: ['inner', 'packets'], largest: 4096, wrap: [] },
  offload: { files: ['offload', 'packets'], largest: 2048, wrap: [] },
  prefix: { files: ['prefix'], largest: 512, wrap: [] },
};
const SCRIPT = ['uapi', 'control', 'invite', 'profile', 'key-file', 'configuration'];

const SANITIZERS = '-fsanitize=address,undefined';
/** Coverage is the guide: of the product and of the targets, not of the slow twins beside them. */
const GUIDED = '-fsanitize=fuzzer';
const FLAGS = [
  ...['-std=c++20', '-O1', '-g', '-fno-exceptions', '-fno-rtti', '-fvisibility=hidden'],
  ...[SANITIZERS, '-fno-sanitize-recover=all', '-fno-omit-frame-pointer'],
];
// The product's warnings are its own build's affair, whose compiler is another.
const STRICT = ['-Wall', '-Wextra', '-Werror'];
// The tunnel calls a worker's loop itself instead of starting its thread: runs repeat exactly.
const TWIN_FLAGS = [...FLAGS, ...STRICT, '-fno-access-control'];

function flagsOf(file) {
  if (!file.startsWith('fuzz_')) return [...FLAGS, GUIDED];
  const isTarget = file.slice('fuzz_'.length, -'.cc'.length) in NATIVE;
  return isTarget ? [...FLAGS, ...STRICT, GUIDED] : TWIN_FLAGS;
}

// ---- C++ ------------------------------------------------------------------------------------

/** Why the targets in C++ cannot be built here; null when they can. */
async function whyNoNative() {
  const { code, output } = await run(COMPILER, ['-print-resource-dir']);
  if (code !== 0) return `${COMPILER} is missing; install ${PACKAGES.join(' ')}`;
  const machine = { x64: 'x86_64', arm64: 'aarch64' }[process.arch] ?? process.arch;
  const library = join(output.trim(), `lib/linux/libclang_rt.fuzzer-${machine}.a`);
  return existsSync(library) ? null : `libFuzzer is missing; install ${PACKAGES.join(' ')}`;
}

function hashOf(...parts) {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part).update('\0');
  return hash.digest('hex').slice(0, 16);
}

/** Compiles one file unless that was done before; resolves to the path of the object. */
async function compile(source, flags, headers) {
  const mark = hashOf(headers, readFileSync(source), flags.join(' '));
  const object = join(BUILD, 'objects', `${basename(source, '.cc')}.${mark}.o`);
  if (!existsSync(object)) {
    const half = `${object}.${process.pid}`;
    await must(COMPILER, [...flags, '-c', source, '-o', half]);
    // Whoever builds beside us writes the same.
    renameSync(half, object);
  }
  return object;
}

/** Builds targets; resolves to a map from name to program. */
async function build(names) {
  mkdirSync(join(BUILD, 'objects'), { recursive: true });
  const folder = inRoot('native');
  const native = readdirSync(folder).sort();
  const headers = hashOf(
    ...native.filter((f) => f.endsWith('.h')).map((f) => readFileSync(join(folder, f))),
  );
  const shared = native.filter((f) => /\.cc$/.test(f) && !/^(addon|selftest|bench|fuzz)/.test(f));
  const own = [...new Set(names.flatMap((name) => NATIVE[name].files))].map((f) => `fuzz_${f}.cc`);
  const jobs = [...own, ...shared];
  const objects = new Map();
  const worker = async () => {
    for (let file = jobs.shift(); file; file = jobs.shift()) {
      objects.set(file, await compile(join(folder, file), flagsOf(file), headers));
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, worker));
  const programs = new Map();
  for (const name of names) {
    const { files, wrap } = NATIVE[name];
    const parts = [...files.map((f) => `fuzz_${f}.cc`), ...shared].map((f) => objects.get(f));
    const program = join(BUILD, `${name}.${hashOf(...parts, wrap.join())}`);
    if (!existsSync(program)) {
      const half = `${program}.${process.pid}`;
      const wraps = wrap.map((call) => `-Wl,--wrap=${call}`);
      await must(COMPILER, [
        SANITIZERS,
        GUIDED,
        ...wraps,
        ...parts,
        '-lcrypto',
        '-pthread',
        '-o',
        half,
      ]);
      renameSync(half, program);
    }
    programs.set(name, program);
  }
  sweep(new Set([...objects.values(), ...programs.values()]), names.length);
  return programs;
}

/** Throws away what older sources were built into, when everything was built. */
function sweep(used, built) {
  if (built < Object.keys(NATIVE).length) return;
  for (const folder of [BUILD, join(BUILD, 'objects')]) {
    for (const file of readdirSync(folder).map((name) => join(folder, name))) {
      // Not what another build is writing now.
      const old = statSync(file).isFile() && Date.now() - statSync(file).mtimeMs > 600_000;
      if (old && !used.has(file)) rmSync(file);
    }
  }
}

function keptCorpus(name) {
  return inRoot(`test/fuzz/corpus/${name}`);
}

/** Runs one target in C++: the kept corpus, what earlier runs found, then new inputs. */
async function fuzzNative(name, program, { seconds, seed, loud }) {
  const found = join(BUILD, 'corpus', name);
  const failures = join(BUILD, 'failures');
  for (const folder of [found, failures, keptCorpus(name)]) mkdirSync(folder, { recursive: true });
  const { largest } = NATIVE[name];
  const options = [
    ...[`-max_total_time=${seconds}`, `-seed=${seed}`, `-max_len=${largest}`, '-timeout=10'],
    ...['-rss_limit_mb=2048', `-artifact_prefix=${failures}/${name}-`, '-print_final_stats=1'],
  ];
  // In the short run every input comes from the kept corpus and the seed.
  const folders = loud ? [found, keptCorpus(name)] : [keptCorpus(name)];
  const written = loud ? folders : [mkdtempSync(join(BUILD, `${name}-`)), ...folders];
  const { code, output } = await run(program, [...options, ...written], { loud });
  if (!loud) rmSync(written[0], { recursive: true, force: true });
  if (code === 0) return { name, ok: true, output };
  const again = `again: ${program} ${failures}/${name}-...\n`;
  return { name, ok: false, output: `${output}${again}` };
}

/** Makes the kept corpus the smallest one found that reaches all that was reached. */
async function keepNative(name, program) {
  const smaller = mkdtempSync(join(BUILD, `${name}-`));
  const folders = [smaller, keptCorpus(name), join(BUILD, 'corpus', name)];
  // How often a line was reached does not count: hundreds of inputs would differ in nothing else.
  const options = ['-set_cover_merge=1', '-use_counters=0', `-max_len=${NATIVE[name].largest}`];
  await must(program, [...options, ...folders]);
  rmSync(keptCorpus(name), { recursive: true, force: true });
  mkdirSync(keptCorpus(name), { recursive: true });
  for (const file of readdirSync(smaller)) {
    renameSync(join(smaller, file), join(keptCorpus(name), file));
  }
  rmSync(smaller, { recursive: true });
}

// ---- TypeScript -----------------------------------------------------------------------------

/** Runs targets in TypeScript; `name` null: all of them, in one process. */
async function fuzzScript(name, { seconds, seed, keep = false, loud }) {
  const vitest = inRoot('node_modules/vitest/vitest.mjs');
  const env = {
    ...(name === null ? {} : { CULVERT_FUZZ_TARGET: name }),
    ...(keep ? { CULVERT_FUZZ_KEEP: '1' } : {}),
    CULVERT_FUZZ_SECONDS: String(seconds),
    CULVERT_FUZZ_SEED: String(seed),
  };
  const args = [vitest, 'run', '--project', 'unit', 'test/fuzz/fuzz.test.ts'];
  const { code, output } = await run(process.execPath, args, { loud, env });
  return { name: name ?? SCRIPT.join(', '), ok: code === 0, output };
}

// ---- short run and command line -------------------------------------------------------------

/** The short run as a job of scripts/tally.mjs; its name says when a part could not run. */
export function fuzzJob() {
  const job = {
    name: 'fuzz targets',
    async work() {
      const seed = randomInt(1, 2 ** 31);
      const results = [];
      const why = await whyNoNative();
      if (why === null) {
        const waiting = [...(await build(Object.keys(NATIVE)))];
        const options = { seconds: SHORT_SECONDS.native, seed, loud: false };
        const worker = async () => {
          for (let next = waiting.shift(); next; next = waiting.shift()) {
            results.push(await fuzzNative(...next, options));
          }
        };
        await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, worker));
      } else {
        job.name = `fuzz targets (those in C++ SKIPPED: ${why})`;
      }
      results.push(await fuzzScript(null, { seconds: SHORT_SECONDS.script, seed, loud: false }));
      const failed = results.filter(({ ok }) => !ok);
      return {
        passed: results.length - failed.length,
        failed: failed.length,
        output: failed.map(({ name, output }) => `fuzz ${name}, seed ${seed}:\n${output}`).join(''),
      };
    },
  };
  return job;
}

async function fuzzOne(name, options) {
  console.log(`fuzz ${name}: ${options.seconds} s, seed ${options.seed}`);
  if (SCRIPT.includes(name)) return (await fuzzScript(name, options)).ok;
  const why = await whyNoNative();
  if (why !== null) {
    console.error(`fuzz ${name}: ${why}`);
    return false;
  }
  const program = (await build([name])).get(name);
  const { ok } = await fuzzNative(name, program, options);
  if (ok && options.keep) await keepNative(name, program);
  return ok;
}

async function main(args) {
  if (args.includes('--short')) {
    const job = fuzzJob();
    const { passed, failed, output } = await job.work();
    console.log(`${output}${job.name}: ${passed} passed, ${failed} failed`);
    return failed === 0 ? 0 : 1;
  }
  const at = args.indexOf('--seed');
  const seed = at < 0 ? randomInt(1, 2 ** 31) : Number(args[at + 1]);
  const [target, time] = args.filter((arg, i) => !arg.startsWith('--') && args[i - 1] !== '--seed');
  const all = [...Object.keys(NATIVE), ...SCRIPT];
  const names = target === 'all' ? all : all.filter((name) => name === target);
  const seconds = Number(time);
  if (names.length === 0 || !(seconds > 0) || !Number.isInteger(seed)) {
    console.error(`usage: npm run fuzz -- TARGET SECONDS [--seed N] [--keep]`);
    console.error(`TARGET: all ${all.join(' ')}`);
    return 2;
  }
  let failed = 0;
  for (const name of names) {
    const options = { seconds, seed, keep: args.includes('--keep'), loud: true };
    if (!(await fuzzOne(name, options))) failed++;
  }
  console.log(`${names.length - failed} passed, ${failed} failed`);
  return failed === 0 ? 0 : 1;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.exit(await main(process.argv.slice(2)));
}

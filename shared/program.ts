/**
 * What all programs share on the command line: commands with examples, --json and --quiet, errors
 * as text or JSON, exit codes, colour. Owns no argv, environment or exit code: cli.ts files pass
 * their Surroundings in and get the exit code back.
 */
import { readFileSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError, type Option } from 'commander';
import { ExitCode, VpnError } from './errors.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

/** A stream programs print to; process.stdout and process.stderr are such streams. */
export interface TextStream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  on?(event: 'error', listener: (error: Error) => void): unknown;
}

/** What a program finds around it. Made by cli.ts from `process`. */
export interface Surroundings {
  /** Arguments without the names of node and of the script. */
  readonly argv: readonly string[];
  readonly env: Environment;
  readonly stdout: TextStream;
  readonly stderr: TextStream;
  /** The caller's file mode creation mask, for a program that runs as the caller's own. */
  readonly umask?: number;
}

export type Colour = 'red' | 'green' | 'yellow' | 'bold' | 'dim';
const SGR: Record<Colour, number> = { red: 31, green: 32, yellow: 33, bold: 1, dim: 2 };

/** Whether `stream` gets colour: NO_COLOR, FORCE_COLOR and TERM=dumb come before the terminal. */
export function colourAllowed(stream: TextStream, env: Environment): boolean {
  if (env.NO_COLOR) return false;
  if (env.FORCE_COLOR) return env.FORCE_COLOR !== '0';
  return stream.isTTY === true && env.TERM !== 'dumb';
}

/** The two voices of a program: facts on stdout, talk on stderr. */
export class Output {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly #surroundings: Surroundings;

  constructor(surroundings: Surroundings, mode: { json: boolean; quiet: boolean }) {
    this.#surroundings = surroundings;
    this.json = mode.json;
    this.quiet = mode.quiet;
  }

  /** Facts: `value` as one line of JSON with --json, else `text`. */
  facts(value: unknown, text: string): void {
    this.print(this.json ? JSON.stringify(value) : text);
  }

  /** Data on stdout, as it is, with a newline. */
  print(text: string): void {
    this.#surroundings.stdout.write(`${text}\n`);
  }

  /** Progress and notes for a person; nothing with --quiet. */
  talk(text: string): void {
    if (!this.quiet) this.#surroundings.stderr.write(`${text}\n`);
  }

  /** A warning is shown with --quiet too. */
  warn(text: string): void {
    this.#surroundings.stderr.write(`${this.paint('yellow', 'warning:')} ${text}\n`);
  }

  /** `text` in colour when stderr gets colour. */
  paint(colour: Colour, text: string): string {
    if (!colourAllowed(this.#surroundings.stderr, this.#surroundings.env)) return text;
    return `\u001b[${SGR[colour]}m${text}\u001b[0m`;
  }

  /** Calls `gone` when stdout cannot be written any more: its reader is gone, or a disk is full. */
  onReaderGone(gone: () => void): void {
    this.#surroundings.stdout.on?.('error', gone);
  }

  /** True when a person reads stdout, so that pictures and prompts make sense. */
  get stdoutIsTerminal(): boolean {
    return this.#surroundings.stdout.isTTY === true;
  }
}

/** What a command's `run` gets. `O`: the options as commander names them (--local-port: localPort). */
export interface Invocation<O> {
  readonly args: readonly (string | undefined)[];
  readonly options: Readonly<O>;
  readonly output: Output;
  readonly env: Environment;
}

export interface CommandSpec<O> {
  /** Name and arguments in commander's notation: `invite <name>`, `connect [target]`. */
  readonly usage: string;
  readonly summary: string;
  /** Two command lines, shown first by --help. */
  readonly examples: readonly [string, string];
  readonly options?: readonly Option[];
  /** Of a group: what its word alone does. */
  readonly isDefault?: boolean;
  /** What follows the first argument belongs to it, options included. */
  readonly passThrough?: boolean;
  /** Resolves with the exit code; nothing means 0. Operators' errors are thrown as VpnError. */
  run(invocation: Invocation<O>): Promise<number | undefined>;
}

export interface ProgramSpec {
  readonly name: string;
  readonly summary: string;
  readonly examples: readonly [string, string];
}

/** One program: takes commands, then runs the one that was asked for. */
export class Program {
  readonly #root: Command;
  readonly #surroundings: Surroundings;
  #exitCode: number = ExitCode.ok;
  #outputFailed = false;

  constructor(spec: ProgramSpec, surroundings: Surroundings) {
    this.#surroundings = surroundings;
    this.#root = new Command(spec.name)
      .description(spec.summary)
      .version(programVersion(), '-V, --version', 'print the version')
      .helpOption('-h, --help', 'print this help')
      .helpCommand(false)
      .enablePositionalOptions()
      .exitOverride()
      .configureOutput({
        writeOut: (text) => surroundings.stdout.write(text),
        writeErr: (text) => surroundings.stderr.write(text),
        // Errors are printed by run(): as text or as JSON.
        outputError: () => {},
      });
    showExamples(this.#root, spec.examples);
    for (const stream of [surroundings.stdout, surroundings.stderr]) {
      // The reader of our output is gone (`| head`), or the terminal: a choice, not an error.
      stream.on?.('error', (error) => {
        const { code } = error as NodeJS.ErrnoException;
        if (code === 'EPIPE' || (code === 'EIO' && stream.isTTY === true)) return;
        // The disk behind `> file` is full: what was to be printed is not there.
        this.#outputFailed = true;
        if (stream === surroundings.stdout) {
          surroundings.stderr.write(`${spec.name}: cannot write the output: ${code}\n`);
        }
      });
    }
  }

  add<O extends object>(spec: CommandSpec<O>): this {
    this.#addTo(this.#root, spec);
    return this;
  }

  /** Commands under one word, such as `config check`: adds the word, then each command to it. */
  addGroup(group: ProgramSpec, ...specs: readonly CommandSpec<never>[]): this {
    const parent = this.#root.command(group.name).summary(group.summary);
    parent.description(group.summary).helpCommand(false);
    showExamples(parent, group.examples);
    for (const spec of specs) this.#addTo(parent, spec);
    return this;
  }

  #addTo<O extends object>(parent: Command, spec: CommandSpec<O>): void {
    const isDefault = spec.isDefault === true;
    const command = parent.command(spec.usage, { isDefault });
    command.summary(spec.summary).description(spec.summary);
    for (const option of spec.options ?? []) command.addOption(option);
    if (spec.passThrough === true) command.passThroughOptions();
    command
      .option('--json', 'print facts and errors as JSON')
      .option('-q, --quiet', 'print no progress');
    showExamples(command, spec.examples);
    command.action(async () => {
      const options = command.opts<O & { json?: boolean; quiet?: boolean }>();
      const output = new Output(this.#surroundings, {
        json: options.json === true,
        quiet: options.quiet === true,
      });
      const args = command.processedArgs as (string | undefined)[];
      const code = await spec.run({ args, options, output, env: this.#surroundings.env });
      this.#exitCode = code ?? ExitCode.ok;
    });
  }

  /** Parses the arguments and runs the command; never throws. Result: the exit code. */
  async run(): Promise<number> {
    const { argv } = this.#surroundings;
    try {
      await this.#root.parseAsync([...argv], { from: 'user' });
      // An error of the stream comes with the next turn.
      await new Promise((resolve) => setImmediate(resolve));
      return this.#outputFailed ? ExitCode.other : this.#exitCode;
    } catch (error) {
      if (error instanceof CommanderError && error.exitCode === 0) return ExitCode.ok;
      // Without a command commander has already printed the help.
      if (error instanceof CommanderError && error.code === 'commander.help') return ExitCode.usage;
      return reportError(this.#root.name(), asVpnError(error, this.#root.name()), {
        ...this.#surroundings,
        json: argv.includes('--json'),
      });
    }
  }
}

/** Prints an error for the operator and returns its exit code. */
export function reportError(
  program: string,
  error: VpnError,
  to: Pick<Surroundings, 'env' | 'stdout' | 'stderr'> & { json: boolean },
): ExitCode {
  if (to.json) {
    const { code, message, hint } = error;
    to.stdout.write(`${JSON.stringify({ error: { code, message, hint } })}\n`);
  } else {
    const red = colourAllowed(to.stderr, to.env);
    const label = red ? `\u001b[31m${program}:\u001b[0m` : `${program}:`;
    to.stderr.write(`${label} ${error.message}\n  ${error.hint}\n`);
  }
  if (to.env.LOG_LEVEL === 'debug' || to.env.LOG_LEVEL === 'trace') {
    for (
      let at: unknown = error;
      at !== undefined;
      at = at instanceof Error ? at.cause : undefined
    ) {
      to.stderr.write(`  caused by: ${at instanceof Error ? at.stack : JSON.stringify(at)}\n`);
    }
  }
  return error.exitCode;
}

/** Any thrown value as a VpnError: usage errors of commander as USAGE, the unexpected as INTERNAL. */
export function asVpnError(error: unknown, program: string): VpnError {
  if (error instanceof VpnError) return error;
  if (error instanceof CommanderError) {
    const message = error.message.replace(/^error: /, '').replace(/\s*\n\s*/g, ' ');
    return new VpnError('USAGE', message, { hint: `Run \`${program} --help\`.` });
  }
  const message = error instanceof Error ? error.message : String(error);
  return new VpnError('INTERNAL', `unexpected error: ${message}`, { cause: error });
}

/** Option parser for a whole number in a range; anything else is a usage error. */
export function wholeNumber(lowest: number, highest: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
    if (value >= lowest && value <= highest) return value;
    throw new InvalidArgumentError(`It is a whole number from ${lowest} to ${highest}.`);
  };
}

function showExamples(command: Command, examples: readonly [string, string]): void {
  command.addHelpText('before', `Examples:\n  ${examples.join('\n  ')}\n`);
}

/** The version in package.json, which lies one folder up in the sources, two up in dist/. */
export function programVersion(): string {
  for (const path of ['../package.json', '../../package.json']) {
    try {
      const text = readFileSync(new URL(path, import.meta.url), 'utf8');
      return (JSON.parse(text) as { version: string }).version;
    } catch {
      // Not here: the other place has it.
    }
  }
  return 'unknown';
}

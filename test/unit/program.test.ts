/** The command line all programs share: errors, exit codes, --json, --quiet, colour. */
import { Option } from 'commander';
import { expect, test } from 'vitest';
import { ExitCode, VpnError } from '../../shared/errors.ts';
import { nearestName } from '../../shared/nearest-name.ts';
import {
  colourAllowed,
  Output,
  Program,
  type Surroundings,
  wholeNumber,
} from '../../shared/program.ts';

class Recorder {
  text = '';
  readonly isTTY: boolean;
  readonly listeners: ((error: Error) => void)[] = [];
  constructor(isTTY = false) {
    this.isTTY = isTTY;
  }
  write(text: string): void {
    this.text += text;
  }
  on(_event: 'error', listener: (error: Error) => void): void {
    this.listeners.push(listener);
  }
}

async function runWith(argv: string[], env: Record<string, string> = {}) {
  const [stdout, stderr] = [new Recorder(), new Recorder()];
  const surroundings: Surroundings = { argv, env, stdout, stderr };
  const program = new Program(
    { name: 'prog', summary: 'A program.', examples: ['prog start', 'prog fail'] },
    surroundings,
  )
    .add<{ port?: number }>({
      usage: 'start [where]',
      summary: 'start it',
      examples: ['prog start here', 'prog start --port 1'],
      options: [new Option('--port <n>', 'a port').argParser(wholeNumber(0, 65_535))],
      run: async ({ args, options, output }) => {
        output.talk('starting');
        output.facts({ where: args[0] ?? null, port: options.port ?? null }, `at ${args[0]}`);
        return undefined;
      },
    })
    .add({
      usage: 'fail <how>',
      summary: 'fail',
      examples: ['prog fail known', 'prog fail unknown'],
      run: async ({ args }) => {
        if (args[0] === 'code') return ExitCode.notRunning;
        const cause = new Error('the root of it');
        if (args[0] === 'known') throw new VpnError('KEY_MALFORMED', 'bad key', { cause });
        throw new Error('surprise', { cause });
      },
    });
  return { code: await program.run(), stdout, stderr };
}

test('facts go to stdout and talk to stderr', async () => {
  const { code, stdout, stderr } = await runWith(['start', 'here']);
  expect([code, stdout.text, stderr.text]).toEqual([0, 'at here\n', 'starting\n']);
});

test('--json makes facts one line of JSON, --quiet silences talk', async () => {
  const { stdout, stderr } = await runWith(['start', '--json', '--quiet', '--port', '7']);
  expect(JSON.parse(stdout.text)).toEqual({ where: null, port: 7 });
  expect(stderr.text).toBe('');
});

test('the exit code of a command is the exit code of the program', async () => {
  expect((await runWith(['fail', 'code'])).code).toBe(3);
});

test('an error of the operator shows message and hint, no stack', async () => {
  const { code, stdout, stderr } = await runWith(['fail', 'known']);
  expect([code, stdout.text]).toEqual([5, '']);
  expect(stderr.text).toMatch(/^prog: bad key\n {2}A key is 44 base64 characters/);
  expect(stderr.text).not.toMatch(/root of it|\.ts:\d/);
});

test('with --json an error is JSON on stdout', async () => {
  const { code, stdout, stderr } = await runWith(['fail', 'known', '--json']);
  expect(JSON.parse(stdout.text)).toEqual({
    error: { code: 'KEY_MALFORMED', message: 'bad key', hint: expect.stringMatching(/44/) },
  });
  expect([code, stderr.text]).toEqual([5, '']);
});

test('LOG_LEVEL=debug shows the chain of causes', async () => {
  const { stderr } = await runWith(['fail', 'known'], { LOG_LEVEL: 'debug' });
  expect(stderr.text).toMatch(/root of it/);
});

test('an unexpected error is reported as a defect', async () => {
  const { code, stderr } = await runWith(['fail', 'unknown']);
  expect(code).toBe(1);
  expect(stderr.text).toMatch(/unexpected error: surprise\n.*defect/);
});

test.each([
  [['strat'], /unknown command 'strat'.*start/],
  [['start', '--prot', '1'], /--prot.*--port/],
  [['start', '--port', 'x'], /--port.*0 to 65535/],
  [['start', '--port', '65536'], /--port.*0 to 65535/],
  [['start', 'a', 'b'], /too many arguments/],
  [['fail'], /how/],
])('%j is a usage error that names the remedy', async (argv, message) => {
  const { code, stdout, stderr } = await runWith(argv);
  expect([code, stdout.text]).toEqual([2, '']);
  expect(stderr.text).toMatch(message);
  expect(stderr.text).toMatch(/--help/);
});

test('without a command the help is printed and the exit code says usage', async () => {
  const { code, stdout, stderr } = await runWith([]);
  expect([code, stdout.text]).toEqual([2, '']);
  expect(stderr.text).toMatch(/Usage: prog/);
});

test('help begins with two examples and is data', async () => {
  const { code, stdout } = await runWith(['start', '--help']);
  expect(code).toBe(0);
  expect(stdout.text).toMatch(/^Examples:\n {2}prog start here\n {2}prog start --port 1\n\nUsage:/);
});

test('--version prints the version of the package', async () => {
  const { code, stdout } = await runWith(['--version']);
  expect([code, stdout.text]).toEqual([0, expect.stringMatching(/^\d+\.\d+\.\d+\n$/)]);
});

test('a reader that went away is no error, a full disk is one of a line and an exit code', async () => {
  const { stdout, stderr } = await runWith(['start']);
  const fail = (code: string) =>
    stdout.listeners[0]!(Object.assign(new Error(code), { code }) as Error);
  fail('EPIPE');
  expect(stderr.text).not.toContain('cannot write');
  // Of a terminal that closed; of a disk it is another matter.
  Object.assign(stdout, { isTTY: true });
  fail('EIO');
  expect(stderr.text).not.toContain('cannot write');
  Object.assign(stdout, { isTTY: false });
  fail('EIO');
  expect(stderr.text).toContain('prog: cannot write the output: EIO');
  fail('ENOSPC');
  expect(stderr.text).toContain('prog: cannot write the output: ENOSPC');
});

test.each([
  [true, {}, true],
  [false, {}, false],
  [true, { NO_COLOR: '1' }, false],
  [true, { NO_COLOR: '' }, true],
  [false, { FORCE_COLOR: '1' }, true],
  [true, { FORCE_COLOR: '0' }, false],
  [true, { TERM: 'dumb' }, false],
  [true, { NO_COLOR: '1', FORCE_COLOR: '1' }, false],
])('colour on a terminal: %s, environment %j: %s', (isTTY, env, expected) => {
  expect(colourAllowed(new Recorder(isTTY), env as Record<string, string>)).toBe(expected);
});

test('a warning is shown with --quiet too', () => {
  const stderr = new Recorder();
  const surroundings = { argv: [], env: {}, stdout: new Recorder(), stderr };
  const output = new Output(surroundings, { json: false, quiet: true });
  output.talk('progress');
  output.warn('careful');
  expect(stderr.text).toBe('warning: careful\n');
});

test('the nearest name is near, or there is none', () => {
  const known = ['PrivateKey', 'Address', 'MTU'];
  expect(nearestName('Adress', known)).toBe('Address');
  expect(nearestName('privatekey', known)).toBe('PrivateKey');
  expect(nearestName('Zebra', known)).toBeNull();
});

test('the word of a group alone does what its default does, with its options', async () => {
  const group = async (...argv: string[]) => {
    const [stdout, stderr] = [new Recorder(), new Recorder()];
    const says = (word: string, isDefault: boolean) => ({
      usage: word,
      summary: word,
      examples: ['prog unit', 'prog unit --json'] as const,
      isDefault,
      run: async ({ output }: { output: Output }) => {
        output.facts({ word }, word);
        return undefined;
      },
    });
    const program = new Program(
      { name: 'prog', summary: 'A program.', examples: ['prog unit', 'prog unit --help'] },
      { argv, env: {}, stdout, stderr },
    ).addGroup(
      { name: 'unit', summary: 'units', examples: ['prog unit', 'prog unit remove'] },
      says('print', true),
      says('remove', false),
    );
    return [await program.run(), stdout.text];
  };
  expect(await group('unit')).toEqual([0, 'print\n']);
  expect(await group('unit', '--json')).toEqual([0, '{"word":"print"}\n']);
  expect(await group('unit', 'remove')).toEqual([0, 'remove\n']);
  expect(await group('unit', 'revome')).toEqual([ExitCode.usage, '']);
});

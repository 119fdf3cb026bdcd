/** Hooks: what programs are told, in which order, how many at once, and what they cannot do. */
import { describe, expect, test } from 'vitest';
import { Events } from '../../server/events.ts';
import { Hooks } from '../../server/hooks.ts';
import { VpnError } from '../../shared/errors.ts';
import { createLogger } from '../../shared/log.ts';
import { type Run, run } from '../../shared/system/run.ts';

type Commands = readonly (readonly string[])[];

function setUp(given: { connected?: Commands; disconnected?: Commands }, runner: Run) {
  const lines: Record<string, unknown>[] = [];
  const stream = { write: (line: string) => lines.push(JSON.parse(line)) };
  const events = new Events(() => 0);
  const settings = { connected: [], disconnected: [], enrolled: [], timeout: 20, ...given };
  const hooks = new Hooks(events, {
    settings,
    device: 'cvs1',
    addressOf: (peer) => (peer === 'laptop' ? '192.168.1.2' : null),
    log: createLogger({ level: 'info', format: 'json', stream, env: {} }),
    runner,
  });
  const connect = (peer: string) => events.add({ type: 'connected', peer, endpoint: 'x port 1' });
  const leave = (peer: string) => events.add({ type: 'disconnected', peer, reason: 'goodbye' });
  return { hooks, settings, events, connect, leave, lines };
}

/** A runner whose programs end when told. */
function controlled() {
  const started: { file: string; args: readonly string[]; input: string; end: () => void }[] = [];
  const runner: Run = (file, args, options) =>
    new Promise((resolve) => {
      const end = () => resolve({ stdout: '', stderr: '' });
      started.push({ file, args, input: String(options?.input), end });
    });
  return { started, runner };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe('a hook', () => {
  test('gets what happened as JSON on its standard input, and says its words in the log', async () => {
    const { connect, lines } = setUp({ connected: [['/bin/cat', '-']] }, run);
    connect('laptop');
    while (lines.length === 0) await turn();
    expect(lines[0]).toMatchObject({ msg: 'hook done', hook: '/bin/cat', peer: 'laptop' });
    expect(JSON.parse(String(lines[0]?.output))).toEqual({
      type: 'connected',
      peer: 'laptop',
      endpoint: 'x port 1',
      time: '1970-01-01T00:00:00.000Z',
      address: '192.168.1.2',
      device: 'cvs1',
    });
  });

  test('writes files for the operator alone', async () => {
    const { connect, lines } = setUp({ connected: [['/bin/sh', '-c', 'umask']] }, run);
    connect('laptop');
    while (lines.length === 0) await turn();
    expect(lines[0]?.output).toBe('0077');
  });

  test('that the kernel cannot even start is a line in the log', async () => {
    const { connect, lines } = setUp({ connected: [['/bin/echo', 'x'.repeat(1 << 18)]] }, run);
    connect('laptop');
    while (lines.length === 0) await turn();
    expect(lines[0]?.msg).toMatch(/^hook failed: .*E2BIG/);
  });

  test('is no line for a shell', async () => {
    const { connect, lines } = setUp({ connected: [['/bin/echo', '$HOME; `id`']] }, run);
    connect('laptop');
    while (lines.length === 0) await turn();
    expect(lines[0]?.output).toBe('$HOME; `id`');
  });

  test('that fails is a line in the log and nothing else', async () => {
    const runner: Run = () => Promise.reject(new VpnError('COMMAND_FAILED', '/x: no end in time'));
    const { connect, lines } = setUp({ connected: [['/x']] }, runner);
    connect('laptop');
    await turn();
    expect(lines[0]).toMatchObject({ msg: 'hook failed: /x: no end in time', peer: 'laptop' });
  });
});

describe('several hooks', () => {
  test('of one peer run one after the other, in the order of what happened', async () => {
    const { started, runner } = controlled();
    const { connect, leave } = setUp(
      { connected: [['/a'], ['/b']], disconnected: [['/c']] },
      runner,
    );
    connect('laptop');
    leave('laptop');
    for (const file of ['/a', '/b', '/c']) {
      expect(started.map((program) => program.file).at(-1)).toBe(file);
      started.at(-1)?.end();
      await turn();
    }
    expect(started).toHaveLength(3);
  });

  test('are four at once at most, and a thousand wait', async () => {
    const { started, runner } = controlled();
    const { connect, lines } = setUp({ connected: [['/a']] }, runner);
    for (let i = 0; i < 1_005; i += 1) connect(`peer${i}`);
    expect(started).toHaveLength(4);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({ peer: 'peer1004', msg: 'a hook is left out: too many wait' });
    started[0]?.end();
    await turn();
    expect(started).toHaveLength(5);
  });

  test('change with the settings, and end with the server', async () => {
    const { started, runner } = controlled();
    const { hooks, settings, connect } = setUp({ connected: [['/a']] }, runner);
    hooks.change({ ...settings, connected: [['/b', '--new']] });
    connect('laptop');
    expect(started.map(({ file, args }) => [file, ...args])).toEqual([['/b', '--new']]);
    connect('laptop');
    hooks.close();
    started[0]?.end();
    await turn();
    connect('phone');
    expect(started).toHaveLength(1);
  });
});

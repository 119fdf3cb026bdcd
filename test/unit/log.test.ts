/** Log lines: JSON for machines, readable for people, never a secret. */
import { expect, test } from 'vitest';
import { createLogger, type LogOptions, parseLogLevel } from '../../shared/log.ts';

function logged(
  options: Partial<LogOptions>,
  write: (log: ReturnType<typeof createLogger>) => void,
) {
  const lines: string[] = [];
  const stream = { write: (text: string) => lines.push(text), isTTY: false };
  write(createLogger({ level: 'info', format: 'auto', stream, env: {}, ...options }));
  return lines;
}

test('without a terminal a line is JSON with level and time by name', () => {
  const [line] = logged({}, (log) => log.info({ port: 6000 }, 'ready'));
  expect(JSON.parse(line!)).toEqual({
    level: 'info',
    time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
    port: 6000,
    msg: 'ready',
  });
});

test('journald stamps its lines itself', () => {
  const env = { JOURNAL_STREAM: '8:1' };
  const [json] = logged({ env }, (log) => log.info('ready'));
  expect(JSON.parse(json!)).toEqual({ level: 'info', msg: 'ready' });
  const [text] = logged({ env, format: 'text' }, (log) => log.info('ready'));
  expect(text).toBe('info  ready\n');
});

test('readable lines carry their fields behind the message', () => {
  const [line] = logged({ format: 'text' }, (log) =>
    log.warn({ peer: 'old phone', port: 1, err: new Error('no way') }, 'refused'),
  );
  expect(line).toMatch(/^\d\d:\d\d:\d\d warn {2}refused /);
  expect(line).toMatch(/peer="old phone" port=1/);
  expect(line).toMatch(/err="no way"/);
  expect(line!.match(/\n/g)).toHaveLength(1);
});

test('nothing below the level is written', () => {
  expect(logged({ level: 'warn' }, (log) => log.info('x'))).toEqual([]);
});

test('secrets are replaced by name, one level down too', () => {
  const secret = 'c2VjcmV0';
  const [line] = logged({}, (log) =>
    log.info({ privateKey: secret, invite: secret, peer: { presharedKey: secret } }, 'x'),
  );
  expect(line).not.toContain(secret);
  expect(line).toContain('[secret]');
});

test('levels are known by name only', () => {
  expect(parseLogLevel('DEBUG')).toBe('debug');
  expect(parseLogLevel('verbose')).toBeNull();
});

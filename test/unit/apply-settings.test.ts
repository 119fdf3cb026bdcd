/** Which running part hears of which setting, and that one failure does not hold up the others. */
import { pino } from 'pino';
import { beforeEach, expect, test } from 'vitest';
import { applySettings } from '../../server/apply-settings.ts';
import { resolveConfiguration } from '../../server/configuration.ts';
import { differences } from '../../server/configuration-report.ts';
import { VpnError } from '../../shared/errors.ts';

let calls: string[];
let failing: string;
beforeEach(() => {
  calls = [];
  failing = '';
});

function call(name: string, detail: unknown): void {
  calls.push(`${name} ${JSON.stringify(detail)}`);
  if (failing === name) throw new VpnError('COMMAND_FAILED', `${name} failed`);
}

async function apply(flags: object, opened = true): Promise<{ notes: string[]; level: string }> {
  const next = resolveConfiguration({ flags, environment: {}, file: null });
  const before = resolveConfiguration({ flags: {}, environment: {}, file: null });
  const log = pino({ level: 'warn' }, { write: () => {} });
  const targets = {
    registry: {
      reconfigure: ({ maxClients }: { maxClients: number | null }) => {
        call('registry', { maxClients });
        return ['two peers want one address'];
      },
    },
    engine: { configure: (change: object) => call('engine', change) as never },
    opened: opened ? { device: 'cvs0' } : null,
    host: { change: async ({ nat }: { nat: string }) => call('host', { nat }) },
    log,
    now: 1,
    run: async (file: string, args: readonly string[]) => {
      call(file, args.join(' '));
      return { stdout: '', stderr: '' };
    },
  };
  const notes = await applySettings(targets, next, differences(before, next));
  return { notes, level: log.level };
}

test('every part hears of its settings; the device only of an MTU that is new', async () => {
  const { notes, level } = await apply({ maxClients: '5', nat: 'off', log: 'debug' });
  expect(calls).toEqual([
    'registry {"maxClients":5}',
    'engine {"mtu":1420,"fwmark":0,"clientToClient":"direct"}',
    'host {"nat":"off"}',
  ]);
  expect(notes).toEqual(['two peers want one address']);
  expect(level).toBe('debug');
  calls = [];
  await apply({ mtu: '1380' });
  expect(calls.some((line) => line.startsWith('ip ') && line.includes('mtu 1380'))).toBe(true);
});

test.each(['registry', 'engine', 'ip', 'host'])(
  'a failure of %s is told, the rest is done',
  async (name) => {
    failing = name;
    const { notes } = await apply({ mtu: '1380' });
    expect(notes).toContainEqual(expect.stringContaining(`${name} failed; `));
    for (const part of ['registry', 'engine', 'ip', 'host']) {
      expect(calls.some((line) => line.startsWith(`${part} `))).toBe(true);
    }
  },
);

test('a level of the log that was given by --quiet stays when the setting is the same', async () => {
  expect((await apply({})).level).toBe('warn');
});

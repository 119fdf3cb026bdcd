/** Settings shown with their origin, told apart, and read again. */
import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import { FILE_KEYS, resolveConfiguration } from '../../server/configuration.ts';
import { parseConfiguration } from '../../server/configuration-file.ts';
import { differences, settingFacts } from '../../server/configuration-report.ts';
import { LiveSettings } from '../../server/reload.ts';

function read(yaml: string, flags = {}, environment = {}) {
  const file = parseConfiguration(yaml, 'server.yaml', FILE_KEYS);
  return resolveConfiguration({ flags, environment, file });
}

/** Live settings on a file that the test rewrites; applying them fails as often as `failures`. */
function live(yaml: string, failures: string[] = []) {
  const file = { yaml };
  const applied: (readonly string[])[] = [];
  const settings = new LiveSettings({
    configuration: read(yaml),
    reread: async () => ({ file: 'server.yaml', configuration: read(file.yaml) }),
    apply: async (_, changed) => {
      applied.push(changed);
      const failure = failures.shift();
      if (failure !== undefined) throw new Error(failure);
      return ['a note'];
    },
    log: pino({ level: 'silent' }),
  });
  return { file, applied, settings };
}

describe('settings as facts', () => {
  it('say where each value comes from', () => {
    const c = read(
      'mtu: 1400\npeers: {a: {address: 192.168.1.9, expires: never}}',
      { log: 'warn' },
      {
        CULVERT_NAT: 'off',
      },
    );
    const facts = new Map(settingFacts(c).map((fact) => [fact.name, fact]));
    expect(facts.get('log')).toMatchObject({ value: 'warn', origin: 'flag', where: '--log' });
    expect(facts.get('nat')).toMatchObject({ value: 'off', origin: 'environment' });
    expect(facts.get('mtu')).toMatchObject({ value: 1400, where: 'server.yaml:1:6' });
    expect(facts.get('push.mtu')).toMatchObject({ value: 1400, origin: 'default', where: null });
    expect(facts.get('device')).toMatchObject({ value: null, origin: 'default' });
    expect(facts.get('peers.a.address')).toMatchObject({ value: '192.168.1.9', origin: 'file' });
    expect(facts.get('peers.a.expires')?.value).toBe('never');
  });

  it('are told apart by value, not by origin', () => {
    const a = read('mtu: 1420\npush: {routes: [10.0.0.0/8]}');
    expect(differences(a, read('# moved\npush: {routes: [10.0.0.0/8]}'))).toEqual([]);
    const b = read('push: {routes: [10.0.0.0/9]}\ngroups: {g: {push: {full: yes}}}');
    expect(differences(a, b)).toEqual(['push.routes', 'groups.g', 'groups.g.push.full']);
  });
});

describe('reload', () => {
  it('applies the difference, and names what waits for the next start', async () => {
    const { file, applied, settings } = live('listen: 6000\nmtu: 1420\n');
    file.yaml = 'listen: 6001\nmtu: 1400\nworkers: 2\noffload: {udpGso: no}\n';
    expect(await settings.reload()).toEqual({
      changed: ['push.mtu', 'mtu'],
      atNextStart: ['listen', 'workers', 'offload.udpGso'],
      notes: ['a note'],
    });
    expect(applied).toEqual([['push.mtu', 'mtu']]);
    expect(settings.current.listen).toEqual({ port: 6000 });
    expect(settings.current.origins.get('listen')).toBe('server.yaml:1:9');
    expect(settings.current.origins.has('workers')).toBe(false);
    // Asked again, the same waits and nothing is applied twice.
    expect(await settings.reload()).toMatchObject({
      changed: [],
      atNextStart: ['listen', 'workers', 'offload.udpGso'],
    });
  });

  it('that came to nothing is tried again as a whole', async () => {
    const { file, applied, settings } = live('mtu: 1420\n', ['the host does not answer']);
    file.yaml = 'mtu: 1400\n';
    await expect(settings.reload()).rejects.toThrow('the host does not answer');
    expect(settings.current.mtu).toBe(1420);
    expect((await settings.reload()).changed).toEqual(['push.mtu', 'mtu']);
    expect(applied).toHaveLength(2);
  });

  it('lets the addresses of another network wait with it', async () => {
    const { file, settings } = live('peers: {a: {address: 192.168.1.9}}\n');
    file.yaml =
      'network: 10.0.0.0/24\npool: {start: 10.0.0.9}\npeers: {a: {address: 10.0.0.7}}\nlog: warn\n';
    expect(await settings.reload()).toMatchObject({
      changed: ['log'],
      atNextStart: ['network', 'address', 'pool.start', 'peers.a.address'],
    });
  });

  it('refuses a bad file and goes on as before', async () => {
    const { file, applied, settings } = live('mtu: 1400\n');
    file.yaml = 'mtu: 14OO\n';
    await expect(settings.reload()).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect(settings.current.mtu).toBe(1400);
    expect(applied).toEqual([]);
    file.yaml = 'mtu: 1300\n';
    expect((await settings.reload()).changed).toEqual(['push.mtu', 'mtu']);
  });
});

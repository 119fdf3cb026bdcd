/** `vpn-server config` and `reload` through the program, on stopped and on running servers. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createProgram } from '../../server/commands.ts';
import { openState } from '../../server/state.ts';
import { VpnError } from '../../shared/errors.ts';
import { type LocalMethod, serveLocalSocket } from '../../shared/system/local-socket.ts';

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-config-${process.pid}-`));
  file = join(folder, 'server.yaml');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const state = () => join(folder, 'state');
const run = () => join(folder, 'run');

/** Runs vpn-server with the directories of this test. */
async function vpnServer(...argv: string[]) {
  const printed = { stdout: '', stderr: '' };
  const stream = (name: keyof typeof printed) => ({
    write: (text: string) => (printed[name] += text),
  });
  const code = await createProgram({
    argv: [...argv, '--state', state(), '--run', run()],
    env: { CULVERT_CONFIG: file, CULVERT_NAT: 'off' },
    stdout: stream('stdout'),
    stderr: stream('stderr'),
  }).run();
  return { code, ...printed };
}

async function whileServing<T>(
  methods: Record<string, LocalMethod>,
  body: () => Promise<T>,
): Promise<T> {
  const socket = await serveLocalSocket(join(run(), 'server.sock'), methods);
  try {
    return await body();
  } finally {
    await socket.close();
  }
}

describe('config check', () => {
  it('names every problem with its place, and ends with 5', async () => {
    writeFileSync(file, 'mtu: 1\nnatt: off\n');
    const { code, stderr } = await vpnServer('config', 'check');
    expect(code).toBe(5);
    expect(stderr).toContain('server.yaml:1:6 mtu must be');
    expect(stderr).toContain('server.yaml:2:1 unknown key natt; did you mean nat?');
  });

  it('takes another file, and the flags of the last start', async () => {
    writeFileSync(file, '');
    const other = join(folder, 'other.yaml');
    writeFileSync(other, 'pool: { start: 10.1.0.9 }\nendpoint: vpn.example:7000\n');
    expect((await vpnServer('config', 'check', other)).code).toBe(5);
    const opened = openState(state());
    opened.store.saveSettings({ flags: { network: '10.1.0.0/24' }, config: null });
    opened.close();
    const { code, stdout, stderr } = await vpnServer('config', 'check', other, '--json');
    expect([code, stderr]).toEqual([0, '']);
    expect(JSON.parse(stdout)).toEqual({
      file: other,
      warnings: [expect.stringContaining('names port 7000')],
    });
  });

  it('asks the running server, which knows its flags', async () => {
    const asked: unknown[] = [];
    const checkConfiguration = (params: unknown) => {
      asked.push(params);
      throw new VpnError('CONFIG_INVALID', 'other.yaml:1:1 is bad');
    };
    const { code, stderr } = await whileServing({ checkConfiguration }, () =>
      vpnServer('config', 'check', join(folder, 'other.yaml')),
    );
    expect(code).toBe(5);
    expect(stderr).toContain('other.yaml:1:1 is bad');
    expect(asked).toEqual([{ file: join(folder, 'other.yaml') }]);
  });
});

describe('config show', () => {
  it('prints what a start would use, with the origins', async () => {
    writeFileSync(
      file,
      'push: { routes: [10.9.0.0/16, 10.8.0.0/16] }\npeers: { a: { group: g } }\ngroups: { g: }\n',
    );
    const { code, stdout, stderr } = await vpnServer('config', 'show');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^listen +6000 +default$/m);
    expect(stdout).toMatch(/^nat +off +CULVERT_NAT$/m);
    expect(stdout).toMatch(/^push\.routes +10\.9\.0\.0\/16, 10\.8\.0\.0\/16 +server\.yaml:1:17$/m);
    expect(stdout).toMatch(/^peers\.a\.group +g +server\.yaml:2:22$/m);
    expect(stderr).toContain('A start now would use these.');
  });

  it('prints what the running server uses', async () => {
    const reply = { running: true, settings: [], warnings: [] };
    const { stdout } = await whileServing({ configuration: () => reply }, () =>
      vpnServer('config', 'show', '--json'),
    );
    expect(JSON.parse(stdout)).toEqual(reply);
  });
});

describe('reload', () => {
  it('says what is in force, what waits, and what to look at', async () => {
    const reply = { changed: ['push.dns'], atNextStart: ['listen'], notes: ['look at c'] };
    const { code, stderr } = await whileServing({ reload: () => reply }, () => vpnServer('reload'));
    expect(code).toBe(0);
    expect(stderr).toContain('In force now: push.dns.');
    expect(stderr).toContain('Takes effect at the next start: listen.');
    expect(stderr).toContain('warning: look at c');
  });

  it('needs a running server', async () => {
    expect((await vpnServer('reload')).code).toBe(3);
  });
});

it('an endpoint that is given several times is a list, as one with commas', async () => {
  writeFileSync(file, '');
  const given = ['[fd00::1]:6000', '192.0.2.1:6000', '192.0.2.2:6000'];
  const words = ['--endpoint', given[0]!, '--endpoint', given.slice(1).join()];
  const { code, stdout } = await vpnServer('invite', 'laptop', '--json', ...words);
  expect(code).toBe(0);
  expect(JSON.parse(stdout).endpoints).toEqual(given);
});

import { execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { VpnError } from '../../shared/errors.ts';
import {
  callLocalSocket,
  followLocalSocket,
  type LocalCaller,
  type LocalMethod,
  type LocalSocket,
  serveLocalSocket,
  silentProcess,
} from '../../shared/system/local-socket.ts';

const root = mkdtempSync(join(tmpdir(), `culvert-socket-${process.pid}-`));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let sockets = 0;
const newPath = () => join(root, `s${++sockets}`, 'run.sock');
const open: LocalSocket[] = [];
afterEach(async () => {
  for (const socket of open.splice(0)) await socket.close();
});

async function serve(path: string, methods: Record<string, LocalMethod> = {}) {
  const socket = await serveLocalSocket(path, methods);
  open.push(socket);
  return socket;
}

const codeOf = (call: Promise<unknown>) =>
  call.then(
    () => 'none',
    (error: unknown) => (error instanceof VpnError ? error.code : String(error)),
  );

/** Sends raw text; everything that comes back until the other end closes or is quiet. */
function raw(path: string, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let got = '';
    const connection = createConnection(path, () => connection.write(text));
    connection.setTimeout(300, () => connection.end());
    connection.on('data', (data) => {
      got += data.toString();
    });
    connection.on('close', () => resolve(got));
    connection.on('error', reject);
  });
}

describe('local socket', () => {
  it.runIf(process.getuid?.() === 0)(
    'answers its own user and root, whatever the modes',
    async () => {
      const path = newPath();
      await serve(path, { hello: () => 'secret' });
      for (const open of [root, dirname(path)]) chmodSync(open, 0o755);
      chmodSync(path, 0o666);
      const request = '{"jsonrpc":"2.0","id":1,"method":"hello"}\n';
      const script = [
        'import socket, sys',
        's = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1])',
        'try:\n s.sendall(sys.argv[2].encode()); print(len(s.recv(99)))',
        'except OSError:\n print(0)',
      ].join('\n');
      const as = (user: string): Promise<string> =>
        new Promise((resolve, reject) => {
          const args = [
            '--reuid',
            user,
            '--clear-groups',
            '/usr/bin/python3',
            '-c',
            script,
            path,
            request,
          ];
          execFile('setpriv', args, (error, stdout) => (error ? reject(error) : resolve(stdout)));
        });
      expect([Number(await as('0')) > 0, Number(await as('65534'))]).toEqual([true, 0]);
    },
  );

  it('carries parameters there and results back', async () => {
    const path = newPath();
    await serve(path, {
      add: (p) => (p as number[]).reduce((a, b) => a + b),
      later: async () => ({ ok: true }),
    });
    expect(await callLocalSocket(path, 'add', [1, 2, 3])).toBe(6);
    expect(await callLocalSocket(path, 'later')).toEqual({ ok: true });
  });

  it('carries notifications until either end has enough', async () => {
    const path = newPath();
    let caller: LocalCaller | undefined;
    let ended = 0;
    const socket = await serve(path, {
      follow: (_, c) => {
        caller = c;
        c.notify('event', { n: 1 });
        c.onEnd(() => ended++);
      },
    });
    const got: unknown[] = [];
    const enough = new AbortController();
    const onNotification = (params: unknown) => {
      got.push(params);
      if (got.length === 2) enough.abort();
    };
    const first = followLocalSocket(path, 'follow', {}, { onNotification, signal: enough.signal });
    while (caller === undefined) await new Promise((resolve) => setTimeout(resolve, 5));
    caller.notify('event', { n: 2 });
    expect(await first).toBe(false);
    expect(got).toEqual([{ n: 1 }, { n: 2 }]);
    const { signal } = new AbortController();
    const second = followLocalSocket(path, 'follow', {}, { onNotification, signal });
    while (got.length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(ended).toBe(1);
    await socket.close();
    expect(await second).toBe(true);
    const none = followLocalSocket(path, 'follow', {}, { onNotification, signal });
    expect(await codeOf(none)).toBe('NOT_RUNNING');
  });

  it('refuses a notification for a caller that does not read, and holds on to no more', async () => {
    const path = newPath();
    let refused = 0;
    await serve(path, {
      follow: (_, caller) => {
        for (let n = 0; n < 100; n++) refused += caller.notify('x', 'y'.repeat(1 << 16)) ? 0 : 1;
        return refused;
      },
    });
    const connection = createConnection(path, () => {
      connection.pause();
      connection.write('{"id":1,"method":"follow"}\n');
    });
    while (refused === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    connection.destroy();
    // About a MiB waits; what the kernel holds comes on top.
    expect(refused).toBeGreaterThan(60);
  });

  it('carries large answers', async () => {
    const path = newPath();
    const big = Array.from({ length: 20_000 }, (_, i) => ({
      name: `peer${i}`,
      text: 'ä'.repeat(50),
    }));
    await serve(path, { big: () => big });
    expect(await callLocalSocket(path, 'big')).toEqual(big);
  });

  it('carries errors with code, message and hint', async () => {
    const path = newPath();
    await serve(path, {
      fail: () => {
        throw new VpnError('USAGE', 'no such thing', { hint: 'Try another.' });
      },
      crash: () => {
        throw new TypeError('oops');
      },
    });
    await expect(callLocalSocket(path, 'fail')).rejects.toMatchObject({
      ...{ code: 'USAGE', message: 'no such thing', hint: 'Try another.', exitCode: 2 },
    });
    expect(await codeOf(callLocalSocket(path, 'crash'))).toBe('INTERNAL');
    expect(await codeOf(callLocalSocket(path, 'nothing'))).toBe('REQUEST_FAILED');
    expect(await codeOf(callLocalSocket(path, 'toString'))).toBe('REQUEST_FAILED');
  });

  it('belongs to its owner alone', async () => {
    const path = newPath();
    const umask = process.umask(0);
    await serve(path);
    process.umask(umask);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(join(path, '..')).mode & 0o777).toBe(0o700);
  });

  it('is gone when closed, and nobody answers', async () => {
    const path = newPath();
    const socket = await serve(path);
    await socket.close();
    expect(statSync(path, { throwIfNoEntry: false })).toBeUndefined();
    expect(await codeOf(callLocalSocket(path, 'x'))).toBe('NOT_RUNNING');
  });

  it('takes the place of a dead one, not of a living one', async () => {
    const path = newPath();
    await serve(path, { who: () => 'first' });
    expect(await codeOf(serveLocalSocket(path, {}))).toBe('ALREADY_RUNNING');
    expect(await callLocalSocket(path, 'who')).toBe('first');
    // A file without a listener is what kill -9 leaves behind.
    const dead = newPath();
    await (await serve(dead)).close();
    writeFileSync(dead, '');
    await serve(dead, { who: () => 'second' });
    expect(await callLocalSocket(dead, 'who')).toBe('second');
  });

  it('answers several requests on a connection, in pieces or together', async () => {
    const path = newPath();
    await serve(path, { echo: (p) => p });
    const line = (id: number) =>
      `${JSON.stringify({ jsonrpc: '2.0', id, method: 'echo', params: id * 10 })}\n`;
    const answers = (await raw(path, line(1) + line(2))).trim().split('\n');
    expect(answers.map((a) => JSON.parse(a))).toEqual([
      { jsonrpc: '2.0', id: 1, result: 10 },
      { jsonrpc: '2.0', id: 2, result: 20 },
    ]);
  });

  it('says what is wrong with a request', async () => {
    const path = newPath();
    await serve(path);
    expect(await raw(path, 'hello\n')).toContain('-32700');
    expect(await raw(path, '[]\n')).toContain('-32600');
    expect(await raw(path, '{"method":"x","id":1}\n')).toContain('-32601');
  });

  it('takes an import of thousands', async () => {
    const path = newPath();
    await serve(path, { length: (text) => (text as string).length });
    expect(await callLocalSocket(path, 'length', 'x'.repeat(4 << 20))).toBe(4 << 20);
  });

  it('cuts off a line without end', async () => {
    const path = newPath();
    await serve(path, { ok: () => 1 });
    expect(await raw(path, 'x'.repeat(17 << 20))).toContain('line too long');
    expect(await callLocalSocket(path, 'ok')).toBe(1);
  });

  it('does not wait for ever', async () => {
    const path = newPath();
    await serve(path, { never: () => new Promise(() => {}) });
    const call = callLocalSocket(path, 'never', {}, { timeoutMs: 50 });
    const error = await call.catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'NOT_ANSWERING' });
    expect(silentProcess(error)).toBe(process.pid);
    expect(silentProcess(new VpnError('REQUEST_FAILED', 'other'))).toBeNull();
  });

  it('notices an end before the answer', async () => {
    const path = join(root, 'rude.sock');
    const rude = createServer((connection) => connection.destroy()).listen(path);
    expect(await codeOf(callLocalSocket(path, 'x'))).toBe('REQUEST_FAILED');
    rude.close();
  });

  it.each([
    ['cut off', '{"params"'],
    ['nothing', 'null'],
    ['a number', '7'],
    ['endless', 'x'.repeat(65 << 20)],
  ])('calls an answer that is none an error: %s', async (_, answer) => {
    const path = join(root, `damaged${++sockets}.sock`);
    const damaged = createServer((connection) => {
      connection.on('error', () => {});
      connection.end(`${answer}\n`);
    }).listen(path);
    const { signal } = new AbortController();
    const onNotification = () => {};
    const wanted = { code: 'REQUEST_FAILED', message: expect.stringMatching(/bad answer/) };
    await expect(callLocalSocket(path, 'x')).rejects.toMatchObject(wanted);
    const following = followLocalSocket(path, 'x', {}, { onNotification, signal });
    await expect(following).rejects.toMatchObject(wanted);
    damaged.close();
  });

  it('names a path that the kernel cannot take', async () => {
    const path = join(root, 'x'.repeat(100), 'run.sock');
    expect(await codeOf(callLocalSocket(path, 'x'))).toBe('SOCKET_FAILED');
    expect(await codeOf(serveLocalSocket(path, {}))).toBe('SOCKET_FAILED');
  });
});

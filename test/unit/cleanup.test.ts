/** `vpn-client cleanup` with the journals of several clients; needs the privilege it asks for. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cleanUp } from '../../client/cleanup.ts';
import { placeOfTunnel } from '../../client/place.ts';
import type { Output } from '../../shared/program.ts';
import { Journal } from '../../shared/system/journal.ts';
import { serveLocalSocket } from '../../shared/system/local-socket.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), `culvert-cleanup-${process.pid}-`));
});
afterEach(() => rmSync(folder, { recursive: true }));

const asRoot = test.runIf(process.getuid?.() === 0);

/** A host with `resolver` changed by the client `b`. */
function setUp() {
  const place = { stateDirectory: join(folder, 'state'), runDirectory: folder };
  const resolver = join(folder, 'resolv.conf');
  writeFileSync(resolver, 'as before');
  new Journal(placeOfTunnel(place, 'b').journalPath).replaceFile(resolver, 'ours');
  const said: string[] = [];
  const output = {
    warn: (text: string) => said.push(text),
    talk: (text: string) => said.push(text),
    facts: () => {},
  } as unknown as Output;
  const clean = () => cleanUp(place, false, output);
  return { place, said, clean, resolver: () => readFileSync(resolver, 'utf8') };
}

asRoot('a damaged journal keeps nobody else from being cleaned up', async () => {
  const { place, said, clean, resolver } = setUp();
  writeFileSync(placeOfTunnel(place, 'a').journalPath, '{damaged');
  expect([await clean(), resolver()]).toEqual([1, 'as before']);
  expect(said[0]).toMatch(/client-a\.journal is damaged/);
});

asRoot(
  'a client that runs is left alone, and alone with its journal a reason to refuse',
  async () => {
    const { place, said, clean, resolver } = setUp();
    const other = placeOfTunnel(place, 'a');
    new Journal(other.journalPath).replaceFile(join(folder, 'hosts'), 'ours');
    const socket = await serveLocalSocket(other.socketPath, { status: () => ({}) });
    try {
      expect([await clean(), resolver()]).toEqual([0, 'as before']);
      expect(said[0]).toMatch(/left alone: the client of a/);
      expect(new Journal(other.journalPath).pending).toHaveLength(1);
      await expect(clean()).rejects.toMatchObject({ code: 'ALREADY_RUNNING' });
    } finally {
      await socket.close();
    }
  },
);

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { formatNetwork } from '../../server/ipv4.ts';
import { administer, findPlace, type Place, readConfiguration } from '../../server/place.ts';
import { openState } from '../../server/state.ts';
import { serveLocalSocket } from '../../shared/system/local-socket.ts';

const root = mkdtempSync(join(tmpdir(), `culvert-place-${process.pid}-`));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let places = 0;

const request = { name: 'laptop', endpoints: ['vpn.example.org'], address: null };
const call = (create: boolean) => ({ method: 'profile', params: request, create });
const fault = (result: Promise<unknown>) =>
  result.then(
    () => 'none',
    (error: { code: string }) => error.code,
  );

describe('place', () => {
  it('comes from flags, then our variables, then systemd’s, then the defaults', () => {
    const socket = (options: object, env: object) => findPlace(options, { ...env }).socketPath;
    const env = { CULVERT_RUN: '/b', RUNTIME_DIRECTORY: '/c' };
    expect(socket({ run: '/a' }, env)).toBe('/a/server.sock');
    expect(socket({}, env)).toBe('/b/server.sock');
    expect(socket({}, { RUNTIME_DIRECTORY: '/c' })).toBe('/c/server.sock');
    expect(socket({}, {})).toBe('/run/culvert/server.sock');
    expect(findPlace({}, { STATE_DIRECTORY: '/s' }).stateDirectory).toBe('/s');
    expect(findPlace({ config: '/e/../x.yaml' }, {}).configPath).toBe('/x.yaml');
  });

  it('reads the file that was named, and says when it cannot', async () => {
    const config = join(root, 'server.yaml');
    writeFileSync(config, 'network: 10.1.0.0/24\n');
    const settings = await readConfiguration(findPlace({ config }, {}), { mtu: '1300' });
    expect(formatNetwork(settings.network)).toBe('10.1.0.0/24');
    expect(settings.mtu).toBe(1300);
    const missing = findPlace({ config: join(root, 'none.yaml') }, {});
    expect(await fault(readConfiguration(missing, {}))).toBe('CONFIG_UNREADABLE');
  });
});

describe('commands of administration', () => {
  let place: Place;
  beforeEach(() => {
    const folder = join(root, String(++places));
    place = findPlace({ state: join(folder, 'state'), run: join(folder, 'run') }, {});
  });

  it('go to the running server', async () => {
    const socket = await serveLocalSocket(place.socketPath, { profile: (params) => params });
    expect(await administer<unknown>(place, call(false), () => 'offline')).toEqual(request);
    await socket.close();
  });

  it('work on a stopped server, with the flags of its last start', async () => {
    const state = openState(place.stateDirectory);
    state.store.saveSettings({ flags: { network: '10.9.0.0/24', listen: '7000' }, config: null });
    state.close();
    const reply = await administer(place, call(false), (a) => a.profile(request));
    expect(reply).toMatchObject({ address: '10.9.0.2', endpoints: ['vpn.example.org:7000'] });
    const { peers } = await administer(place, call(false), (a) => a.peers());
    expect(peers.map((p) => p.name)).toEqual(['laptop']);
  });

  it('need a server that was started once, unless they begin one', async () => {
    expect(await fault(administer(place, call(false), (a) => a.peers()))).toBe('NOT_RUNNING');
    const reply = await administer(place, call(true), (a) => a.profile(request));
    expect(reply.address).toBe('192.168.1.2');
  });

  it('wait for a server that is starting', async () => {
    const state = openState(place.stateDirectory);
    const reply = administer<unknown>(place, call(false), () => 'offline');
    await new Promise((resolve) => setTimeout(resolve, 200));
    const socket = await serveLocalSocket(place.socketPath, { profile: (params) => params });
    expect(await reply).toEqual(request);
    await socket.close();
    state.close();
  });

  it('leave a server alone that runs but does not answer here', { timeout: 20_000 }, async () => {
    const state = openState(place.stateDirectory);
    const result = administer(place, call(true), (a) => a.peers());
    expect(await fault(result)).toBe('ALREADY_RUNNING');
    state.close();
  });

  it('close what they opened after a fault too', async () => {
    const twice = () => administer(place, call(true), (a) => a.profile(request));
    await twice();
    expect(await fault(twice())).toBe('NAME_TAKEN');
    openState(place.stateDirectory).close();
  });
});

describe('identity', () => {
  it('is refused when it is missing or another one, and comes back unchanged', () => {
    const folder = join(root, String(++places));
    const first = openState(folder);
    first.close();
    const again = openState(folder);
    expect(again.identity.publicKey).toEqual(first.identity.publicKey);
    again.close();
    const file = join(folder, 'identity.key');
    writeFileSync(file, `${Buffer.alloc(32, 8).toString('base64')}\n`);
    expect(() => openState(folder)).toThrow('not the one that the store belongs to');
    rmSync(file);
    expect(() => openState(folder)).toThrow('is missing');
  });
});

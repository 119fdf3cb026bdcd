// What a new user meets, counted and timed: install, start the server, paste the invite, ping; in
// two of the demo's namespaces. Fails above 4 steps, 20 s when installed, or 180 s from source.
// node scripts/first-ten-minutes.mjs [--from-source] [--json]   (as root)
// Without --from-source the package of this checkout is packed, unpacked and taken as installed.
import { cpSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DemoNetwork } from './demo-network.mjs';
import { inRoot, must, ROOT } from './steps.mjs';

const STEPS = 4;
const LIMIT = { installed: 20, fromSource: 180 };

const fromSource = process.argv.includes('--from-source');
const asJson = process.argv.includes('--json');
if (process.getuid() !== 0) {
  console.error('this needs root: it makes network namespaces and tun devices');
  process.exit(4);
}

const folder = mkdtempSync(join(tmpdir(), 'culvert-first-'));
const net = new DemoNetwork();
const steps = [];
process.once('exit', discard);
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
]) {
  process.once(signal, () => process.exit(code));
}
try {
  net.open();
  await firstTenMinutes();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await net.close();
}

/** Also when a signal ends it. */
function discard() {
  net.discard();
  rmSync(folder, { recursive: true, force: true });
}

async function firstTenMinutes() {
  // Packing is the maker's work, not the user's.
  const packed = fromSource ? null : await unpack();
  const program = fromSource
    ? await step('git clone, npm run setup', build)
    : await step('npm install -g (done before)', () => packed);
  const files = (name) => ['--state', join(folder, name), '--run', join(folder, `${name}-run`)];
  const cli = (name) => join(program, `dist/${name}/cli.js`);

  const { server, invite } = await step('vpn-server start', async () => {
    const daemon = net.start('server', process.execPath, [cli('server'), 'start', ...files('s')]);
    const found = await net.until('no invite', daemon, () => /culvert1_[\w-]+/.exec(daemon.output));
    return { server: daemon, invite: found[0] };
  });
  const client = await step('vpn-client connect --invite ...', async () => {
    const args = [cli('client'), 'connect', '--invite', invite, ...files('a')];
    const tunnel = net.start('alice', process.execPath, args);
    await net.until('not connected', tunnel, () => /^connected: /m.test(tunnel.output));
    return tunnel;
  });
  await step('ping 192.168.1.1', () => {
    net.run('alice', 'ping', ['-n', '-c', '1', '-W', '2', '192.168.1.1']);
  });
  await net.stop(client);
  await net.stop(server);
  report();
}

async function step(what, action) {
  const from = performance.now();
  const result = await action();
  steps.push({ step: what, seconds: Number(((performance.now() - from) / 1000).toFixed(1)) });
  return result;
}

/** As `npm pack` and an installation leave it; its addon and packages are those of the checkout. */
async function unpack() {
  const pack = ['--prefix', ROOT, 'pack', ROOT, '--ignore-scripts', '--pack-destination', folder];
  await must('npm', pack);
  const file = readdirSync(folder).find((name) => name.endsWith('.tgz'));
  await must('tar', ['-xzf', join(folder, file), '-C', folder]);
  const installed = join(folder, 'package');
  symlinkSync(inRoot('node_modules'), join(installed, 'node_modules'));
  cpSync(inRoot('build/Release/culvert.node'), join(installed, 'build/Release/culvert.node'));
  return installed;
}

async function build() {
  const clone = join(folder, 'culvert');
  await must('git', ['clone', '--quiet', ROOT, clone]);
  await must('npm', ['--prefix', clone, 'run', 'setup']);
  return clone;
}

function report() {
  const seconds = Number(steps.reduce((sum, { seconds: s }) => sum + s, 0).toFixed(1));
  const limit = fromSource ? LIMIT.fromSource : LIMIT.installed;
  if (asJson) {
    console.log(JSON.stringify({ fromSource, steps, seconds, limit }));
  } else {
    steps.forEach(({ step: what, seconds: s }, at) => {
      console.log(`${at + 1}. ${what.padEnd(34)} ${s.toFixed(1).padStart(6)} s`);
    });
    const how = fromSource ? 'built from source' : 'installed';
    console.log(`${steps.length} steps, ${seconds} s, ${how} (at most ${STEPS} and ${limit} s)`);
  }
  if (steps.length > STEPS || seconds > limit) process.exitCode = 1;
}

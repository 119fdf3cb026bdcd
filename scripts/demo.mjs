// Shows the main job on one machine: a server and two clients in three namespaces, a ping and a
// TCP transfer between the clients, and what an eavesdropper sees. Cleans up always.
// node scripts/demo.mjs (as root)
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DemoNetwork } from './demo-network.mjs';
import { setup } from './setup.mjs';
import { inRoot } from './steps.mjs';

const MARKER = 'this text travels in clear inside the tunnel and must not be seen outside';
const node = process.execPath;
const server = inRoot('dist/server/cli.js');
const client = inRoot('dist/client/cli.js');
const application = (name) => inRoot(`test/netns/applications/${name}.mjs`);

if (process.getuid() !== 0) {
  console.error('the demo needs root: it makes network namespaces and tun devices');
  process.exit(4);
}
let net;
const discard = () => net?.discard();
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
]) {
  process.once(signal, () => {
    discard();
    process.exit(code);
  });
}
process.once('exit', discard);

try {
  await setup();
  net = new DemoNetwork();
  net.open();
  await show(net);
  await net.close();
  net = undefined;
  say('\nEverything is removed again. All of it worked.');
} catch (error) {
  console.error(`\nThe demo failed: ${error.message}`);
  process.exit(1);
}

async function show(net) {
  const files = (name) => [
    ...['--state', join(net.directory, name, 'state')],
    ...['--run', join(net.directory, name, 'run')],
  ];
  say('\n1. Three hosts, as network namespaces on this machine:');
  say('     alice 10.77.1.2 ---- 10.77.1.1 server 10.77.2.1 ---- 10.77.2.2 bob');

  say('\n2. On the server: vpn-server start --listen 6000');
  const flags = ['start', '--listen', '6000', '--nat', 'off', ...files('server')];
  const daemon = net.start('server', node, [server, ...flags]);
  const status = () => net.run('server', node, [server, 'status', '--json', ...files('server')]);
  await net.until('the server did not start', daemon, status);
  say(`     it is up with address ${JSON.parse(status()).address}`);

  const addresses = {};
  for (const [at, host] of ['alice', 'bob'].entries()) {
    addresses[host] = await enrol(net, host, `10.77.${at + 1}.1:6000`, files);
  }

  say(`\n5. alice pings bob through the tunnel: ping ${addresses.bob}`);
  const ping = net.run('alice', 'ping', ['-n', '-c', '10', '-i', '0.1', addresses.bob]);
  say(`     ${ping.trim().split('\n').slice(-2).join('\n     ')}`);

  say('\n6. A TCP transfer from alice to bob, 5 seconds:');
  say(`     ${await transfer(net, addresses.bob)}`);

  say('\n7. An eavesdropper records the wire while alice and bob talk in clear inside:');
  await eavesdrop(net, addresses);
}

/** Lets one host in with an invite; returns its inner address. */
async function enrol(net, host, endpoint, files) {
  const number = host === 'alice' ? 3 : 4;
  say(`\n${number}. On the server: vpn-server invite ${host}`);
  const ask = ['invite', host, '--endpoint', endpoint, '--json', ...files('server')];
  const { invite } = JSON.parse(net.run('server', node, [server, ...ask]));
  say(`   On ${host}: vpn-client connect --invite ${invite.slice(0, 24)}...`);
  const flags = ['connect', '--invite', invite, ...files(host)];
  const program = net.start(host, node, [client, ...flags]);
  const address = await net.until(`${host} did not connect`, program, () => {
    const links = JSON.parse(net.run(host, 'ip', ['-json', '-4', 'address', 'show', 'up']));
    const tun = links.find((link) => link.flags?.includes('POINTOPOINT'));
    return tun?.addr_info?.[0]?.local;
  });
  await net.until(`${host} cannot reach the server`, program, () =>
    net.run(host, 'ping', ['-n', '-c', '1', '-W', '1', '192.168.1.1']),
  );
  say(`     connected with address ${address}`);
  return address;
}

/** One iperf3 run to `address`, which is bob's; returns the rate in words. */
async function transfer(net, address) {
  const listener = net.start('bob', 'iperf3', ['-s', '-1', '--forceflush']);
  await net.until('iperf3 does not listen', listener, () => /listening/.test(listener.output));
  const report = JSON.parse(net.run('alice', 'iperf3', ['-c', address, '-t', '5', '-J']));
  const { bits_per_second: rate, bytes } = report.end.sum_received;
  return `${(bytes / 1e6).toFixed(0)} MB at ${(rate / 1e6).toFixed(0)} Mbit/s`;
}

/** Records the outer wire and the tun of alice at once, and looks for the text in both. */
async function eavesdrop(net, addresses) {
  const device = JSON.parse(net.run('alice', 'ip', ['-json', 'link', 'show', 'up'])).find((link) =>
    link.flags.includes('POINTOPOINT'),
  ).ifname;
  const wire = await record(net, 'server', 's1');
  const inside = await record(net, 'alice', device);
  const echo = net.start('bob', node, [application('echo'), addresses.bob, '5000']);
  await net.until('the echo server does not start', echo, () => /ready/.test(echo.output));
  const talk = [application('talk'), addresses.alice, '5000', addresses.bob, '5000', MARKER];
  net.run('alice', node, talk);
  const incomplete = 'the recording inside the tunnel is incomplete';
  await net.until(incomplete, inside.program, () => occurrences(inside) >= 4);
  const clear = await count(net, inside);
  const seen = await count(net, wire);
  say(`     in alice's tun the text is there ${clear} times, in UDP and TCP packets`);
  say(`     on the wire, among ${(wire.bytes / 1024).toFixed(0)} KiB recorded: ${seen} times`);
  if (seen > 0) throw new Error('the text is readable on the wire');
}

async function record(net, host, device) {
  const file = join(net.directory, `${host}-${device}.pcap`);
  const args = ['-i', device, '-n', '-U', '--immediate-mode', '-Z', 'root', '-w', file];
  const program = net.start(host, 'tcpdump', args);
  await net.until('tcpdump does not start', program, () => /listening on/.test(program.output));
  return { program, file, bytes: 0 };
}

/** Ends a recording and counts the text in it. */
async function count(net, recording) {
  await net.stop(recording.program, 'SIGINT');
  return occurrences(recording);
}

/** How often the text is in what is recorded so far. */
function occurrences(recording) {
  const bytes = readFileSync(recording.file);
  recording.bytes = bytes.length;
  let found = 0;
  for (let at = bytes.indexOf(MARKER); at !== -1; at = bytes.indexOf(MARKER, at + 1)) found += 1;
  return found;
}

function say(text) {
  console.log(text);
}

// Measures the leaks of docs/SECURITY.md for wg-quick and OpenVPN, once, by hand:
//   node test/bench/leaks.mjs wg-quick|openvpn
// One client namespace, one gateway that is also the server; packets to the protected target that
// leave the client's wire in the clear are counted for each trouble. Needs root.
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const kind = process.argv[2];
const tag = `cvtleak${process.pid}`;
const [A, S] = [`${tag}-a`, `${tag}-s`];
const folder = mkdtempSync(join(tmpdir(), tag));
const children = [];
const sh = (ns, script) => {
  try {
    return execFileSync('ip', ['netns', 'exec', ns, 'sh', '-c', script], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  } catch (error) {
    return `${error.stdout}${error.stderr}`;
  }
};
const start = (ns, script) => {
  const child = spawn('ip', ['netns', 'exec', ns, 'sh', '-c', `exec ${script}`], {
    stdio: 'ignore',
  });
  children.push(child);
  return child;
};
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const wg = (command, input) => execFileSync('wg', [command], { input, encoding: 'utf8' }).trim();
/** The target is reached, and not beside the tunnel. */
const inTunnel = () =>
  /dev (lka|lk0)/.test(sh(A, 'ip route get 10.200.0.1')) &&
  / 0% packet loss/.test(sh(A, 'ping -n -c 2 -i 0.2 -W 1 10.200.0.1'));

function lay() {
  for (const ns of [A, S]) execFileSync('ip', ['netns', 'add', ns]);
  execFileSync('ip', [
    'link',
    'add',
    'eth0',
    'netns',
    A,
    'type',
    'veth',
    'peer',
    'name',
    's1',
    'netns',
    S,
  ]);
  sh(
    A,
    'ip link set lo up; ip link set eth0 up; ip addr add 10.77.1.2/24 dev eth0; ip route add default via 10.77.1.1; ip addr add 2001:db8:1::2/64 dev eth0 nodad; ip -6 route add default via 2001:db8:1::1',
  );
  sh(
    S,
    'ip link set lo up; ip link set s1 up; ip addr add 10.77.1.1/24 dev s1; ip addr add 10.200.0.1/32 dev lo',
  );
}

/** Clear packets to `target` while `during` runs. */
async function clear(target, during) {
  const file = join(folder, 'capture');
  const dump = start(
    A,
    `tcpdump -i eth0 -n -U --immediate-mode -Z root -w ${file} dst host ${target} and not port 6000`,
  );
  await pause(700);
  await during();
  const v6 = target.includes(':') ? '-6' : '';
  sh(A, `ping ${v6} -n -c 4 -i 0.2 -W 1 ${target}`);
  await pause(300);
  dump.kill('SIGTERM');
  process.kill(dump.pid, 0);
  await pause(400);
  return execFileSync('tcpdump', ['-n', '-r', file], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
    .split('\n')
    .filter(Boolean).length;
}

const systems = {
  'wg-quick': () => {
    const [a, s] = [wg('genkey'), wg('genkey')];
    const write = (name, text) =>
      writeFileSync(join(folder, `${name}.conf`), text, { mode: 0o600 });
    write(
      'lks',
      `[Interface]\nPrivateKey = ${s}\nAddress = 10.8.0.1/24\nListenPort = 6000\n[Peer]\nPublicKey = ${wg('pubkey', a)}\nAllowedIPs = 10.8.0.2/32\n`,
    );
    write(
      'lka',
      `[Interface]\nPrivateKey = ${a}\nAddress = 10.8.0.2/24\n[Peer]\nPublicKey = ${wg('pubkey', s)}\nAllowedIPs = 0.0.0.0/0\nEndpoint = 10.77.1.1:6000\nPersistentKeepalive = 5\n`,
    );
    const env =
      'WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1';
    return {
      server: () => sh(S, `${env} wg-quick up ${folder}/lks.conf`),
      stopServer: () => sh(S, `wg-quick down ${folder}/lks.conf`),
      client: () => sh(A, `${env} wg-quick up ${folder}/lka.conf`),
      killClient: () => sh(A, 'ip link del lka'),
      end: () => sh(A, `wg-quick down ${folder}/lka.conf`),
      inner: '10.8.0.2',
    };
  },
  openvpn: () => {
    let server;
    let client;
    execFileSync(
      'openssl',
      [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:P-256',
        '-nodes',
        '-days',
        '2',
        '-subj',
        '/CN=a',
        '-keyout',
        join(folder, 'k'),
        '-out',
        join(folder, 'c'),
      ],
      { stdio: 'ignore' },
    );
    const common = `--dev-type tun --dev lk0 --proto udp --ca ${folder}/c --cert ${folder}/c --key ${folder}/k --topology subnet --keepalive 2 6 --verb 1`;
    return {
      server: () => {
        server = start(
          S,
          `openvpn ${common} --tls-server --mode server --dh none --duplicate-cn --port 6000 --ifconfig 10.8.0.1 255.255.255.0 --ifconfig-pool 10.8.0.2 10.8.0.20 255.255.255.0 --push "topology subnet" --push "route-gateway 10.8.0.1"`,
        );
      },
      stopServer: () => server?.kill('SIGKILL'),
      client: () => {
        client = start(
          A,
          `openvpn ${common} --client --nobind --remote 10.77.1.1 6000 --redirect-gateway def1 --route-gateway 10.8.0.1 --connect-retry 1`,
        );
      },
      killClient: () => client?.kill('SIGKILL'),
      end: () => client?.kill('SIGTERM'),
      inner: '10.8.0.2',
    };
  },
};

const results = {};
try {
  lay();
  mkdirSync('/run/netns', { recursive: true });
  const system = systems[kind]();
  results.connecting = await clear('10.200.0.1', async () => {
    system.client();
    await pause(500);
  });
  system.server();
  await pause(1500);
  for (let i = 0; i < 20 && !inTunnel(); i++) await pause(500);
  results.works = inTunnel();
  results.tunnelVision = await clear('10.200.0.1', async () =>
    sh(A, 'ip route add 10.200.0.1/32 via 10.77.1.1 dev eth0'),
  );
  sh(A, 'ip route del 10.200.0.1/32 via 10.77.1.1 dev eth0');
  results.localNet = await clear('203.0.113.9', async () =>
    sh(
      A,
      'ip addr add 203.0.113.2/24 dev eth0; ip neigh replace 203.0.113.9 lladdr 02:00:00:00:00:01 dev eth0',
    ),
  );
  sh(A, 'ip addr del 203.0.113.2/24 dev eth0');
  results.ipv6 = await clear('2001:db8:9::1', async () =>
    sh(
      A,
      'ip addr add 2001:db8:9::2/64 dev eth0 nodad; ip neigh replace 2001:db8:9::1 lladdr 02:00:00:00:00:01 dev eth0',
    ),
  );
  sh(
    S,
    `ip rule add pref 100 oif s1 lookup 99; ip route add ${system.inner}/32 via 10.77.1.2 dev s1 table 99`,
  );
  results.answersFromLan = / 0% packet loss/.test(
    sh(S, `ping -n -I s1 -c 2 -i 0.2 -W 1 ${system.inner}`),
  );
  system.stopServer();
  results.serverGone = await clear('10.200.0.1', async () => pause(8000));
  system.killClient();
  results.clientKilled = await clear('10.200.0.1', async () => pause(1000));
  system.end();
} finally {
  for (const child of children) child.kill('SIGKILL');
  for (const ns of [A, S]) {
    for (const pid of execFileSync('ip', ['netns', 'pids', ns], { encoding: 'utf8' }).split('\n'))
      if (pid) process.kill(Number(pid), 'SIGKILL');
    execFileSync('ip', ['netns', 'delete', ns]);
  }
  rmSync(folder, { recursive: true, force: true });
  console.log(JSON.stringify({ kind, ...results }));
}

/**
 * What happens to a tunnel in recovery.mjs, by name. Each makes it happen and returns when it was
 * over, by Date.now(): from then on the tunnel may recover.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ip, nameHosts, namespaceOf, OUTER } from './topology.mjs';
import { INNER, INNER_MTU, PORT } from './tunnels/tunnel.mjs';

/** The server, for clients that look it up. */
export const SERVER_NAME = 'vpn.test';
const MOVED = { server: '10.77.1.9', a: '10.77.1.22' };
/** Where a client behind the NAT appears, and by which ports. */
const NAT_ADDRESS = '10.77.1.50';
const NAT_PORTS = '20000-60000';
const STEP_MS = 20;
const CONFIGURE_MS = 5_000;

/**
 * @typedef {object} Scene
 * @property {import('./processes.mjs').Processes} processes
 * @property {import('./processes.mjs').Started} daemon The server.
 * @property {string} folder
 * @property {boolean} isWireguard Settings are put back by its operator.
 * @property {number} downMs How long the server is away.
 */

/** @type {Record<string, {before?: (scene: Scene) => Promise<void>, happen: (scene: Scene) => Promise<number>}>} */
export const EVENTS = {
  /** The server is killed (kill -9) and started again; the time counts from the start. */
  restart: {
    async happen({ processes, daemon, folder, isWireguard, downMs }) {
      const server = namespaceOf('server');
      const settings = join(folder, 'settings');
      if (isWireguard) {
        const text = await processes.run(server, ['wg', 'showconf', server]);
        writeFileSync(settings, text, { mode: 0o600 });
      }
      const argv = fieldsOf(daemon.pid, 'cmdline');
      const env = Object.fromEntries(
        fieldsOf(daemon.pid, 'environ').map((line) => {
          const at = line.indexOf('=');
          return [line.slice(0, at), line.slice(at + 1)];
        }),
      );
      process.kill(daemon.pid, 'SIGKILL');
      await daemon.done;
      await sleep(downMs);
      const from = Date.now();
      processes.start(server, argv, { log: join(folder, 'again.log'), env });
      if (isWireguard) await configure(processes, server, settings);
      return from;
    },
  },

  /** A NAT before the client loses its mappings and gives it another port; nobody is told. */
  rebind: {
    async before({ processes, folder }) {
      const snat = `ip saddr ${OUTER.a} udp dport ${PORT} snat to ${NAT_ADDRESS}:${NAT_PORTS}`;
      const nat = chain('nat', 'type nat hook input priority 100', `${snat} fully-random`);
      await rules({ processes, folder }, `table ip gate {\n${nat}}\n`);
      const short = ['udp_timeout', 'udp_timeout_stream'];
      const all = short.map((name) => `net.netfilter.nf_conntrack_${name}=1`);
      await processes.run(namespaceOf('server'), ['sysctl', '-qw', ...all]);
    },
    async happen({ processes, folder }) {
      const to = chain('to', 'type filter hook prerouting priority -400', `udp dport ${PORT} drop`);
      const back = chain('back', 'type filter hook output priority -400', `udp sport ${PORT} drop`);
      await rules({ processes, folder }, `table ip closed {\n${to}${back}}\n`);
      // Each mapping is forgotten after a second without a packet.
      await sleep(3_000);
      const from = Date.now();
      await rules({ processes, folder }, 'delete table ip closed\n');
      return from;
    },
  },

  /** The client gets another outer address, as from DHCP. */
  'client-moves': {
    async happen() {
      ip('a', 'address', 'del', `${OUTER.a}/24`, 'dev', 'eth0');
      ip('a', 'address', 'add', `${MOVED.a}/24`, 'dev', 'eth0');
      const from = Date.now();
      ip('a', 'route', 'add', 'default', 'via', OUTER.server);
      return from;
    },
  },

  /** The server gets another outer address, and its name the record of that. */
  'server-moves': {
    async happen() {
      // In this order: with the first address of a network the kernel takes the others.
      ip('server', 'address', 'del', `${OUTER.server}/24`, 'dev', 's1');
      ip('server', 'address', 'add', `${MOVED.server}/24`, 'dev', 's1');
      const from = Date.now();
      nameHosts('a', { [SERVER_NAME]: MOVED.server });
      return from;
    },
  },
};

/** @param {string} name @param {string} hook @param {string} rule */
function chain(name, hook, rule) {
  return `  chain ${name} {\n    ${hook};\n    ${rule}\n  }\n`;
}

/** @param {Pick<Scene, 'processes' | 'folder'>} scene @param {string} script */
async function rules({ processes, folder }, script) {
  const file = join(folder, 'rules.nft');
  writeFileSync(file, script);
  await processes.run(namespaceOf('server'), ['nft', '-f', file]);
}

/** Fields of a file in /proc that are separated by NUL. @param {number} pid @param {string} file */
function fieldsOf(pid, file) {
  return readFileSync(`/proc/${pid}/${file}`, 'utf8').split('\0').filter(Boolean);
}

/**
 * What its operator's script would do as soon as the device is there.
 * @param {import('./processes.mjs').Processes} processes @param {string} device @param {string} settings
 */
async function configure(processes, device, settings) {
  const end = Date.now() + CONFIGURE_MS;
  for (;;) {
    try {
      await processes.run(device, ['wg', 'setconf', device, settings]);
      break;
    } catch (error) {
      if (Date.now() > end) throw error;
      await sleep(STEP_MS);
    }
  }
  await processes.run(device, ['ip', 'address', 'add', `${INNER.server}/24`, 'dev', device]);
  await processes.run(device, ['ip', 'link', 'set', device, 'mtu', String(INNER_MTU), 'up']);
}

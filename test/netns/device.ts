/** vpn-device as the namespace tests use it: started in a host, driven by Debian's wg. */
import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Net } from './harness.ts';
import type { Program } from './program.ts';
import { eventually } from './waiting.ts';
import { newKeys, uniqueDevice } from './wireguard.ts';

const CLI = fileURLToPath(new URL('../../dist/shared/uapi/cli.js', import.meta.url));

/** Command and arguments of vpn-device. */
export function vpnDevice(...args: string[]): [string, string[]] {
  if (!existsSync(CLI)) throw new Error(`${CLI} is missing: npm run build`);
  return [process.execPath, [CLI, ...args]];
}

export function socketOf(name: string): string {
  return `/var/run/wireguard/${name}.sock`;
}

/** An environment in which `vpn-device` is a command, as after its installation. */
export function installed(net: Net): Record<string, string> {
  const folder = join(net.directory, 'bin');
  mkdirSync(folder, { recursive: true });
  const [node, args] = vpnDevice();
  writeFileSync(join(folder, 'vpn-device'), `#!/bin/sh\nexec ${node} ${args[0]} "$@"\n`);
  chmodSync(join(folder, 'vpn-device'), 0o755);
  return {
    PATH: `${folder}${delimiter}${process.env.PATH}`,
    WG_QUICK_USERSPACE_IMPLEMENTATION: 'vpn-device',
  };
}

/** One vpn-device in the foreground. */
export class WgDevice {
  readonly net: Net;
  readonly host: string;
  readonly name = uniqueDevice();
  readonly program: Program;

  /** `command`: what stands for the command vpn-device. */
  constructor(net: Net, host: string, command: [string, string[]] = vpnDevice()) {
    this.net = net;
    this.host = host;
    const env = { LOG_LEVEL: 'debug' };
    const [file, args] = command;
    this.program = net.start(host, file, [...args, '-f', this.name], { env });
  }

  /** Waits until device and socket are there. */
  async ready(): Promise<this> {
    await eventually(`${this.name} is there`, 10_000, () => {
      if (!this.program.running) throw new Error(this.program.report());
      return existsSync(socketOf(this.name));
    });
    return this;
  }

  /** `wg VERB NAME ...`; must succeed. */
  wg(verb: string, ...args: string[]): Promise<string> {
    return this.net.must(this.host, 'wg', [verb, this.name, ...args]);
  }

  /** Writes a file that `wg` and `wg-quick` read. */
  file(suffix: string, text: string): string {
    const path = join(this.net.directory, `${this.name}.${suffix}`);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  }

  /** Gives it inner addresses and brings it up. */
  up(...addresses: string[]): void {
    for (const address of addresses) {
      this.net.ip(this.host, 'address', 'add', address, 'dev', this.name, 'nodad');
    }
    this.net.ip(this.host, 'link', 'set', this.name, 'up');
  }

  /** Bytes received and sent, of the only peer. */
  async transfer(): Promise<[number, number]> {
    const [, received, sent] = (await this.wg('show', 'transfer')).trim().split('\t');
    return [Number(received), Number(sent)];
  }

  /** Says `text` on the control socket and returns the whole answer. */
  say(text: string): Promise<string> {
    return new Promise((resolve, reject) => {
      const connection = createConnection({ path: socketOf(this.name), allowHalfOpen: true });
      let answer = '';
      connection.setEncoding('utf8').on('data', (piece) => {
        answer += piece;
      });
      connection.on('error', reject).on('close', () => resolve(answer));
      connection.end(text);
    });
  }
}

/** Where two devices meet: `left eth0 10.77.1.1/24 and fd77::1 ---- eth0 .2 right`. */
export function layPair(net: Net): void {
  net.wire(
    { host: 'left', device: 'eth0', addresses: ['10.77.1.1/24', 'fd77::1/64'] },
    { host: 'right', device: 'eth0', addresses: ['10.77.1.2/24', 'fd77::2/64'] },
  );
  net.remember();
}

/** Keys of both sides and what each side's `wg setconf` reads. Inner: 192.168.9.1 and .2. */
export async function pairConfigurations(
  net: Net,
  endpoint: string,
  ...extra: string[]
): Promise<{ left: string; right: string; rightKey: string }> {
  const [left, right] = [await newKeys(net, 'left'), await newKeys(net, 'right')];
  const psk = (await net.must('left', 'wg', ['genpsk'])).trim();
  const side = (secret: string, other: string, ...lines: string[]) =>
    ['[Interface]', `PrivateKey = ${secret}`, 'ListenPort = 51820', '', '[Peer]']
      .concat([`PublicKey = ${other}`, `PresharedKey = ${psk}`, ...lines, ''])
      .join('\n');
  const toRight = ['AllowedIPs = 192.168.9.2/32, fd99::2/128', `Endpoint = ${endpoint}`];
  return {
    left: side(left.secret, right.open, ...toRight, ...extra),
    right: side(right.secret, left.open, 'AllowedIPs = 192.168.9.1/32, fd99::1/128'),
    rightKey: right.open,
  };
}

/** A vpn-device on `left` and one on `right`, configured for each other and up. */
export async function devicePair(
  net: Net,
  endpoint = '10.77.1.2:51820',
): Promise<{ left: WgDevice; right: WgDevice; rightKey: string }> {
  const text = await pairConfigurations(net, endpoint);
  const left = await new WgDevice(net, 'left').ready();
  const right = await new WgDevice(net, 'right').ready();
  await left.wg('setconf', left.file('conf', text.left));
  await right.wg('setconf', right.file('conf', text.right));
  // A device notices its link a moment later and answers nothing before; left begins at once.
  right.up('192.168.9.2/24', 'fd99::2/64');
  await right.program.says(/link up/);
  left.up('192.168.9.1/24', 'fd99::1/64');
  return { left, right, rightKey: text.rightKey };
}

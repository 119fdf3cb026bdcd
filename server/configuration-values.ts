/**
 * What single settings may be: one zod schema for each kind of value, from YAML or from the text
 * of a flag or an environment variable. Messages complete the sentence "KEY ...".
 */
import { isIP } from 'node:net';
import { z } from 'zod';
import { networkText, parseCidr } from '../shared/cidr.ts';
import { parseHostPort } from '../shared/profile.ts';
import { formatIpv4, type Ipv4, type Ipv4Network, parseIpv4, parseNetwork } from './ipv4.ts';

/** Smallest and largest MTU of the tunnel: IPv6's minimum, the largest sealed packet. */
export const MTU_RANGE = [1280, 65_455] as const;

export interface Listen {
  readonly port: number;
  /** One local address; absent: all, both families. */
  readonly address?: string;
}

/** A schema that takes text apart; `parse` returns null or a problem for what it cannot read. */
function read<T>(parse: (text: string) => T | null, problem: string) {
  return z.union([z.string(), z.number()], problem).transform((input, context): T => {
    const value = parse(String(input).trim());
    if (value === null) {
      context.addIssue({ code: 'custom', message: problem });
      return z.NEVER;
    }
    return value;
  });
}

/** A whole number, decimal or 0x hexadecimal. */
export function whole(lowest: number, highest: number) {
  return read((text) => {
    const value = /^(\d{1,10}|0x[0-9a-f]{1,8})$/i.test(text) ? Number(text) : -1;
    return value >= lowest && value <= highest ? value : null;
  }, `must be a whole number from ${lowest} to ${highest}`);
}

/** One of some words. YAML reads `off` as text, but `false` is what some people write. */
export function word<const W extends string>(...words: readonly W[]) {
  return read(
    (text) => words.find((w) => w === text) ?? null,
    `must be ${words.slice(0, -1).join(', ')} or ${words.at(-1)}`,
  );
}

export const flag = z.union([
  z.boolean(),
  read((text) => {
    if (['true', 'on', 'yes', '1'].includes(text)) return { on: true };
    if (['false', 'off', 'no', '0'].includes(text)) return { on: false };
    return null;
  }, 'must be true or false').transform(({ on }) => on),
]);

/** A list; as text its items are separated by commas. */
export function list<S extends z.ZodType>(item: S, most: number) {
  return z
    .preprocess(
      (input) =>
        typeof input === 'string' || typeof input === 'number'
          ? String(input)
              .split(',')
              .filter((part) => part.trim() !== '')
          : input,
      z.array(item, 'must be a list'),
    )
    .refine((items) => items.length <= most, `has more than ${most} entries`);
}

export const listen = read((text): Listen | null => {
  if (/^\d{1,5}$/.test(text)) {
    const port = Number(text);
    return port >= 1 && port <= 65_535 ? { port } : null;
  }
  const parts = parseHostPort(text);
  return parts !== null && isIP(parts.host) !== 0
    ? { port: parts.port, address: parts.host }
    : null;
}, 'must be PORT or ADDRESS:PORT, with a port from 1 to 65535');

/** `host`, `host:port`, `[v6]:port`; a port is added where it is used. */
export const endpoint = read(
  (text) => (withPort(text, 1) === null ? null : text),
  'must be HOST or HOST:PORT, with a name or an address clients reach',
);

/** The parts of `text`, with `port` when it names none; null when it is no endpoint. */
export function withPort(text: string, port: number): { host: string; port: number } | null {
  if (isIP(text) !== 0) return { host: text, port };
  return parseHostPort(text) ?? parseHostPort(`${text}:${port}`);
}

export const network = read((text): Ipv4Network | null => {
  const parsed = parseNetwork(text);
  // Room for the server and one peer; /8 is the largest private network.
  return parsed !== null && parsed.prefixLength >= 8 && parsed.prefixLength <= 30 ? parsed : null;
}, 'must be an IPv4 network from /8 to /30, such as 192.168.1.0/24').refine(
  (parsed) => parsed.base < 224 * 2 ** 24 && parsed.base >= 2 ** 24 && parsed.base >>> 24 !== 127,
  'must be made of addresses that hosts can have',
);

export const address = read(
  (text): Ipv4 | null => parseIpv4(text),
  'must be an IPv4 address such as 192.168.1.1',
);

export const route = read((text) => {
  const cidr = text.includes('/') ? parseCidr(text) : null;
  return cidr !== null && networkText(cidr) === networkText(parseCidr(text)!)
    ? networkText(cidr)
    : null;
}, 'must be networks such as 10.0.0.0/8');

export const nameServer = read(
  (text) => (isIP(text) === 0 ? null : text),
  'must be addresses of name servers',
);

export const domain = read(
  (text) => (parseHostPort(`${text}:1`) !== null && isIP(text) === 0 ? text : null),
  'must be domains such as example.org',
);

/** What the kernel takes as a name of a link; `%d` stands for the first free number. */
export const device = read(
  (text) => (/^[^\s/:]{1,15}$/.test(text) && text !== '.' && text !== '..' ? text : null),
  'must be 1 to 15 characters without blanks, slashes and colons',
);

export function showAddress(value: Ipv4): string {
  return formatIpv4(value);
}

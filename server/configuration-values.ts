/**
 * What single settings may be: one zod schema for each kind of value, from YAML or from the text
 * of a flag or an environment variable. Messages complete the sentence "KEY ...".
 */
import { isIP } from 'node:net';
import { z } from 'zod';
import { type Cidr, isOnHostOrLink, isPrivate, networkText, parseCidr } from '../shared/cidr.ts';
import { parseHostPort } from '../shared/profile.ts';
import { parseExpiry } from './expiry.ts';
import { formatNetwork, type Ipv4, type Ipv4Network, parseIpv4, parseNetwork } from './ipv4.ts';

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

const TRUE_OR_FALSE = 'must be true or false';
export const flag = z
  .union([z.boolean(), z.string(), z.number()], TRUE_OR_FALSE)
  .transform((input, context): boolean => {
    const text = String(input).trim();
    if (['true', 'on', 'yes', '1'].includes(text)) return true;
    if (['false', 'off', 'no', '0'].includes(text)) return false;
    context.addIssue({ code: 'custom', message: TRUE_OR_FALSE });
    return z.NEVER;
  });

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
export const endpoint = z
  .union([z.string(), z.number()], 'must be HOST or HOST:PORT')
  .transform((input, context): string => {
    const text = String(input).trim();
    const parts = withPort(text, 1);
    // As it is asked for, whatever its script.
    if (parts !== null) {
      return text.includes(parts.host) ? text : text.replace(/^[^:]+/, parts.host);
    }
    const message =
      ambiguity(text) ?? 'must be HOST or HOST:PORT, with a name or an address clients reach';
    context.addIssue({ code: 'custom', message });
    return z.NEVER;
  });

/** The parts of `text`, with `port` when it names none; null when it is no endpoint. */
export function withPort(text: string, port: number): { host: string; port: number } | null {
  if (ambiguity(text) !== null) return null;
  if (isIP(text) !== 0) return { host: text, port };
  return parseHostPort(text) ?? parseHostPort(`${text}:${port}`);
}

/** `::1:6000` may be an address and is hardly meant as one; what to write instead, or null. */
function ambiguity(text: string): string | null {
  const parts = /^([^[\]]+):(\d{1,5})$/.exec(text);
  if (parts === null || isIP(parts[1]!) !== 6) return null;
  const alone = isIP(text) === 6 ? `, or [${text}] without a port` : '';
  return `must have brackets around an IPv6 address: [${parts[1]}]:${parts[2]}${alone}`;
}

export const network = read((text): Ipv4Network | null => {
  const parsed = parseNetwork(text);
  // Room for the server and one peer; /8 is the largest private network.
  return parsed !== null && parsed.prefixLength >= 8 && parsed.prefixLength <= 30 ? parsed : null;
}, 'must be an IPv4 network from /8 to /30, such as 192.168.1.0/24').refine(
  (parsed) => parsed.base < 224 * 2 ** 24 && parsed.base >= 2 ** 24 && parsed.base >>> 24 !== 127,
  'must be made of addresses that hosts can have',
);

/** A network for IPv6: a unique local one (RFC 4193), so that clients take addresses of it. */
export const network6 = read((text): Cidr | null => {
  const parsed = text.includes('/') ? parseCidr(text) : null;
  if (parsed?.family !== 6 || parsed.prefixLength < 48 || parsed.prefixLength > 120) return null;
  return isPrivate(parsed) ? parseCidr(networkText(parsed)) : null;
}, 'must be a unique local IPv6 network from /48 to /120, such as fd12:3456:789a::/64');

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

export const nameServer = read((text) => {
  const address = text.includes('/') ? null : parseCidr(text);
  return address !== null && !isOnHostOrLink(address) ? text : null;
}, 'must be addresses of name servers that clients reach');

export const domain = read((text) => {
  const host = parseHostPort(`${text}:1`)?.host ?? '';
  return host !== '' && isIP(host) === 0 ? host : null;
}, 'must be domains such as example.org');

/** What the kernel takes as a name of a link; `%d` stands for the first free number. */
export const device = read(
  (text) => (/^[^\s/:]{1,15}$/.test(text) && text !== '.' && text !== '..' ? text : null),
  'must be 1 to 15 characters without blanks, slashes and colons',
);

/** Names of peers and groups. */
export const name = read(
  (text) => (/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(text) ? text : null),
  'must be 1 to 63 letters, digits, dots, dashes or underscores',
);

/** When something ends: Unix seconds, null for never. Times are absolute: a file has no now. */
export const expiry = read((text) => {
  if (text === 'never') return { at: null };
  const at = /^\d{4}-/.test(text) ? parseExpiry(text, 0) : null;
  return at === null ? null : { at };
}, 'must be a day such as 2030-12-31, a time such as 2030-12-31T18:00:00Z, or never').transform(
  ({ at }) => at,
);

const COMMANDS = 'must be a list of commands, each a list: program with full path, then arguments';
const command = z
  .array(z.string(COMMANDS).max(4096), COMMANDS)
  .max(64, COMMANDS)
  .refine((words) => words[0]?.startsWith('/') === true, COMMANDS);
/** Programs to run, as argument arrays; never a line for a shell. */
export const commands = z.array(command, COMMANDS).max(8, 'has more than 8 commands');

/** Whether clients take addresses of the network. */
export function isForPrivateUse(value: Ipv4Network): boolean {
  return isPrivate(parseCidr(formatNetwork(value))!);
}

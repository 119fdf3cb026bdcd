/**
 * Settings of a client that come from its environment: log level, and how the data plane carries
 * packets. Where it lives is place.ts.
 */
import type { OpenOptions } from '../shared/dataplane.ts';
import { VpnError } from '../shared/errors.ts';
import { LOG_LEVELS, type LogLevel, parseLogLevel } from '../shared/log.ts';
import type { Environment } from '../shared/program.ts';

const MAX_WORKERS = 64;

/** How packets are carried: CULVERT_WORKERS, CULVERT_AEAD, CULVERT_OFFLOAD_*. Errors: CONFIG_INVALID. */
export function carrierOf(env: Environment): Pick<OpenOptions, 'workers' | 'aead' | 'offloads'> {
  const workers = env.CULVERT_WORKERS ?? '0';
  if (!/^\d{1,2}$/.test(workers) || Number(workers) > MAX_WORKERS) {
    throw invalid('CULVERT_WORKERS', workers, `must be a number from 0 to ${MAX_WORKERS}`);
  }
  return {
    workers: Number(workers),
    aead: word(env, 'CULVERT_AEAD', ['auto', 'ipsec-mb', 'openssl']),
    offloads: {
      tunTcp: flag(env, 'CULVERT_OFFLOAD_TUN_TCP'),
      tunUdp: flag(env, 'CULVERT_OFFLOAD_TUN_UDP'),
      udpGso: flag(env, 'CULVERT_OFFLOAD_UDP_GSO'),
      udpGro: flag(env, 'CULVERT_OFFLOAD_UDP_GRO'),
    },
  };
}

/** The flag, else CULVERT_LOG, else LOG_LEVEL, else `fallback`. Errors: CONFIG_INVALID, USAGE. */
export function logLevelOf(
  flag: string | undefined,
  env: Environment,
  fallback: LogLevel,
): LogLevel {
  const text = flag ?? env.CULVERT_LOG ?? env.LOG_LEVEL;
  const level = text === undefined ? fallback : parseLogLevel(text);
  if (level !== null) return level;
  const rule = `must be one of ${LOG_LEVELS.join(', ')}`;
  if (flag !== undefined) throw new VpnError('USAGE', `--log "${flag}" ${rule}`);
  throw invalid('CULVERT_LOG', text!, rule);
}

function word<W extends string>(env: Environment, name: string, words: readonly [W, ...W[]]): W {
  const text = env[name];
  if (text === undefined) return words[0];
  const found = words.find((w) => w === text);
  if (found === undefined) throw invalid(name, text, `must be one of ${words.join(', ')}`);
  return found;
}

/** On unless it is switched off. */
function flag(env: Environment, name: string): boolean {
  const on = ['true', 'on', 'yes', '1'] as const;
  const text = word(env, name, ['true', 'on', 'yes', '1', 'false', 'off', 'no', '0']);
  return on.some((w) => w === text);
}

function invalid(name: string, text: string, rule: string): VpnError {
  return new VpnError('CONFIG_INVALID', `${name} "${text}" ${rule}`, {
    hint: 'Correct the environment variable, or unset it.',
  });
}

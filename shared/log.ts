/**
 * Loggers of all programs: pino to stderr, JSON for machines, one readable line per event for
 * people. Keys and invites are replaced before anything is written.
 */
import { type Logger, pino, stdTimeFunctions } from 'pino';
import { colourAllowed, type Environment, type TextStream } from './program.ts';

export type { Logger } from 'pino';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface LogOptions {
  readonly level: LogLevel;
  /** 'auto': readable when the stream is a terminal. */
  readonly format: 'auto' | 'json' | 'text';
  readonly stream: TextStream;
  /** For the colour rules and JOURNAL_STREAM: journald stamps lines itself. */
  readonly env: Environment;
}

/** Names of fields that hold secrets, at the top and one level down. */
const SECRETS = ['privateKey', 'presharedKey', 'invite', 'passphrase', 'sendKey', 'receiveKey'];

export function createLogger(options: LogOptions): Logger {
  const { stream, env } = options;
  const readable =
    options.format === 'text' || (options.format === 'auto' && stream.isTTY === true);
  const stamped = !env.JOURNAL_STREAM;
  const destination = readable
    ? new LineWriter(stream, { stamped, colour: colourAllowed(stream, env) })
    : stream;
  return pino(
    {
      level: options.level,
      base: null,
      timestamp: stamped ? stdTimeFunctions.isoTime : false,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: SECRETS.flatMap((name) => [name, `*.${name}`]), censor: '[secret]' },
    },
    destination as { write(text: string): void },
  );
}

/** A level from a flag or the environment; null when there is no such level. */
export function parseLogLevel(text: string): LogLevel | null {
  return LOG_LEVELS.find((level) => level === text.toLowerCase()) ?? null;
}

const LEVEL_COLOUR: Readonly<Record<string, number>> = { warn: 33, error: 31, fatal: 31, debug: 2 };

/** Turns pino's JSON lines into `10:42:07 info  message key=value`. */
class LineWriter {
  readonly #stream: TextStream;
  readonly #stamped: boolean;
  readonly #colour: boolean;

  constructor(stream: TextStream, options: { stamped: boolean; colour: boolean }) {
    this.#stream = stream;
    this.#stamped = options.stamped;
    this.#colour = options.colour;
  }

  write(line: string): void {
    const { level, time, msg, ...fields } = JSON.parse(line) as Record<string, unknown>;
    const stamp = this.#stamped ? `${String(time).slice(11, 19)} ` : '';
    const name = String(level).padEnd(5);
    const sgr = this.#colour ? LEVEL_COLOUR[String(level)] : undefined;
    const label = sgr === undefined ? name : `\u001b[${sgr}m${name}\u001b[0m`;
    const rest = Object.entries(fields).map(([key, value]) => ` ${key}=${showField(key, value)}`);
    this.#stream.write(`${stamp}${label} ${msg ?? ''}${rest.join('')}\n`);
  }
}

/** One field of a readable line: errors by their message, text with spaces in quotes. */
function showField(key: string, value: unknown): string {
  if (key === 'err' && typeof value === 'object' && value !== null && 'message' in value) {
    return JSON.stringify(value.message);
  }
  if (typeof value === 'string') return /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value);
  return JSON.stringify(value);
}

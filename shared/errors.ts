/**
 * Every error an operator can meet, in one catalogue: code, exit code, what to do about it.
 * docs/ERRORS.md has one row for each code; a test compares both. Errors of remote peers are not
 * here: they are refusals (closed unions) where they happen.
 */

/** Exit codes of every program (docs/ERRORS.md). */
export const ExitCode = {
  ok: 0,
  other: 1,
  usage: 2,
  notRunning: 3,
  privilege: 4,
  config: 5,
  unreachable: 6,
  refused: 7,
  alreadyRunning: 8,
  partial: 9,
} as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

interface CatalogueRow {
  readonly exit: ExitCode;
  /** What to do about it, one sentence; shown as the hint. */
  readonly hint: string;
}

export const ERRORS = {
  USAGE: { exit: ExitCode.usage, hint: 'Run the command with --help.' },
  NOT_RUNNING: { exit: ExitCode.notRunning, hint: 'Start it first, or check --run.' },
  NO_TUN_DEVICE: {
    exit: ExitCode.privilege,
    hint: 'Load the module with `modprobe tun`; in a container pass --device /dev/net/tun.',
  },
  NO_NET_ADMIN: {
    exit: ExitCode.privilege,
    hint: 'Run as root, or grant CAP_NET_ADMIN.',
  },
  INTERNAL: { exit: ExitCode.other, hint: 'This is a defect in Culvert; please report it.' },
} as const satisfies Record<string, CatalogueRow>;

export type ErrorCode = keyof typeof ERRORS;

/** An error whose fault lies with the operator, the host or the programmer. */
export class VpnError extends Error {
  readonly code: ErrorCode;
  readonly hint: string;
  readonly exitCode: ExitCode;

  /** `message` says what happened, with names and values but never a secret. */
  constructor(code: ErrorCode, message: string, options: { cause?: unknown; hint?: string } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'VpnError';
    this.code = code;
    this.hint = options.hint ?? ERRORS[code].hint;
    this.exitCode = ERRORS[code].exit;
  }
}

/**
 * Says that links, addresses, routes or rules of this network namespace changed, as the kernel reports
 * it to `ip monitor`, a child of this program. Coarse on purpose: who needs details reads them
 * (link.ts) when the changes have settled.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { SEARCH_PATH } from './run.ts';

export interface NetworkChange {
  readonly kind: 'link' | 'address' | 'route' | 'rule';
  /** Device the change is about; null when the kernel's message names none. */
  readonly device: string | null;
  /** The thing is gone; false: it is new or different. */
  readonly gone: boolean;
}

export interface NetworkWatch {
  /** Ends the watch and its child; idempotent. */
  close(): void;
}

/** A child that ended is replaced after this. */
const RESTART_AFTER_MS = 2_000;
/** A line of the kernel's is shorter; longer text without an end is dropped. */
const LONGEST_LINE = 8_192;
const KINDS = { LINK: 'link', ADDR: 'address', ROUTE: 'route', RULE: 'rule' } as const;

/**
 * Calls `onChange` for every change from now on, in the order of the kernel. A child that dies
 * is replaced, and what may have been missed is told as a change of a link without name.
 */
export function watchNetwork(onChange: (change: NetworkChange) => void): NetworkWatch {
  let closed = false;
  let child: ChildProcess | null = null;
  let again: NodeJS.Timeout | undefined;
  const start = (): void => {
    let rest = '';
    child = spawn('ip', ['-oneline', 'monitor', 'label', 'link', 'address', 'route', 'rule'], {
      env: { PATH: SEARCH_PATH, LC_ALL: 'C' },
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = (lines.pop() ?? '').slice(-LONGEST_LINE);
      for (const line of lines) {
        const change = closed ? null : parseMonitorLine(line);
        if (change !== null) onChange(change);
      }
    });
    let ended = false;
    const onEnd = (): void => {
      if (ended || closed) return;
      ended = true;
      again = setTimeout(() => {
        start();
        onChange({ kind: 'link', device: null, gone: false });
      }, RESTART_AFTER_MS);
      again.unref();
    };
    child.on('error', onEnd).on('close', onEnd);
  };
  start();
  return {
    close: () => {
      closed = true;
      clearTimeout(again);
      child?.kill('SIGTERM');
      child = null;
    },
  };
}

/** One line of `ip -oneline monitor label ...`; null: it is about something else. */
export function parseMonitorLine(line: string): NetworkChange | null {
  const [, label, deleted, text] =
    /^\[(LINK|ADDR|ROUTE|RULE)\](Deleted )?(.*)$/.exec(line.trim()) ?? [];
  if (label === undefined || text === undefined) return null;
  const kind = KINDS[label as keyof typeof KINDS];
  if (kind === 'rule') return { kind, device: null, gone: deleted !== undefined };
  // `3: eth0@if2: <UP> ...` and `3: eth0    inet ...`; a route has `dev eth0` somewhere.
  const pattern = kind === 'route' ? / dev (\S+)/ : /^\d+: ([^\s:@]+)/;
  return { kind, device: pattern.exec(text)?.[1] ?? null, gone: deleted !== undefined };
}

/**
 * Notices to systemd about this program: ready, still alive, what it does (sd_notify(3)). A
 * program that systemd did not start has nobody to tell. A notice that cannot be sent is lost:
 * it must never hold up a tunnel.
 */
import { sendUnixDatagram } from '../../native/index.ts';

/** What systemd tells a service through its environment. */
export interface NotifyEnvironment {
  readonly NOTIFY_SOCKET?: string | undefined;
  /** Microseconds between two signs of life, at most. */
  readonly WATCHDOG_USEC?: string | undefined;
}

export type SendDatagram = (path: string, text: string) => unknown;

/** null: nobody listens. */
export function openNotifier(
  environment: NotifyEnvironment,
  send: SendDatagram = sendUnixDatagram,
): Notifier | null {
  const socket = environment.NOTIFY_SOCKET;
  if (socket === undefined || !/^[/@]./.test(socket)) return null;
  const watchdog = Number(environment.WATCHDOG_USEC ?? 0) / 1000;
  return new Notifier((text) => void send(socket, text), watchdog > 0 ? watchdog : null);
}

export class Notifier {
  readonly #send: (text: string) => void;
  /** Milliseconds between two signs of life; null: systemd does not ask for any. */
  readonly #interval: number | null;
  #lastAlive = Number.NEGATIVE_INFINITY;
  #status = '';

  /** `watchdog`: milliseconds after which systemd takes silence for death. */
  constructor(send: (text: string) => void, watchdog: number | null) {
    this.#send = send;
    // Twice within its patience is systemd's own advice; three times allows for a lost notice.
    this.#interval = watchdog === null ? null : watchdog / 3;
  }

  ready(): void {
    this.#send('READY=1');
  }

  /** Settings are being read again; ready() ends it. `now`: microseconds of CLOCK_MONOTONIC. */
  reloading(now: bigint = process.hrtime.bigint() / 1000n): void {
    this.#send(`RELOADING=1\nMONOTONIC_USEC=${now}`);
  }

  stopping(): void {
    this.#send('STOPPING=1');
  }

  /** One line for `systemctl status`; sent when it has changed. */
  status(text: string): void {
    if (text === this.#status) return;
    this.#status = text;
    this.#send(`STATUS=${text.replaceAll('\n', ' ')}`);
  }

  /** Call on every turn of the program; `now` in milliseconds of a monotonic clock. */
  alive(now: number): void {
    if (this.#interval === null || now - this.#lastAlive < this.#interval) return;
    this.#lastAlive = now;
    this.#send('WATCHDOG=1');
  }
}

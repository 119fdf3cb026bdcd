/**
 * Time as a parameter. Product code below the edges never reads a clock by itself: it is handed
 * a Clock, so tests run in virtual time.
 */
export interface Clock {
  /** Milliseconds of CLOCK_BOOTTIME: monotonic, goes on during suspend. All deadlines use it. */
  now(): number;
  /** Wall time in Unix seconds and nanoseconds (CLOCK_REALTIME); only for TAI64N and display. */
  wall(): WallTime;
}

export interface WallTime {
  readonly seconds: number;
  readonly nanoseconds: number;
}

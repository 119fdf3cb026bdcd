/** The error that code under test throws on purpose. */
import { VpnError } from '../../shared/errors.ts';

/** Runs `body`, which has to throw a VpnError. */
export function errorOf(body: () => unknown): VpnError {
  try {
    body();
  } catch (error) {
    if (error instanceof VpnError) return error;
    throw error;
  }
  throw new Error('no error');
}

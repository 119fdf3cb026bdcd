/** What a fuzz target is, and the properties that all of them share. */
import { ERRORS, type ErrorCode, VpnError } from '../../shared/errors.ts';

export interface FuzzTarget {
  readonly name: string;
  /** Inputs to begin with; the corpus in corpus/NAME comes on top. */
  readonly seeds: readonly Uint8Array[];
  /** Pieces the format is made of. */
  readonly words: readonly string[];
  /**
   * Feeds one input to the product. Returns short names of what happened: an input with a new one
   * becomes material for others. Throws when a property is broken.
   */
  run(input: Uint8Array): readonly string[];
}

/** Throws unless `holds`; `what` names the property. */
export function require(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(`property broken: ${what}`);
}

/** Throws unless both are the same in JSON; byte strings are written as numbers. */
export function requireEqual(actual: unknown, expected: unknown, what: string): void {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)];
  require(a === b, `${what}: ${a} is not ${b}`);
}

export function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/**
 * Runs `body`. The operator's mistakes may only show as one of `codes`, without a key of `input` in
 * the message; anything else that is thrown goes on. Returns the value or what the error said.
 */
export function attempt<T>(
  input: string,
  codes: readonly ErrorCode[],
  body: () => T,
): { value: T } | { failure: string; message: string } {
  try {
    return { value: body() };
  } catch (error) {
    if (!(error instanceof VpnError)) throw error;
    require(error.code in ERRORS && codes.includes(error.code), `unexpected ${error.code}`);
    require(error.message !== '' && error.hint !== '', `${error.code} says nothing`);
    requireNoKey(input, error.message);
    return { failure: `${error.code} ${shapeOf(input, error.message)}`, message: error.message };
  }
}

/** Lines with a secret key: named as one, or nothing but a key. */
const SECRET_LINE = /^\W*(private|preshared)|^\s*[A-Za-z0-9+/]{43}=?\s*$/i;

/** No secret key of `input` may stand in `message`, nor more than a quarter of one. */
export function requireNoKey(input: string, message: string): void {
  const lines = input.split('\n');
  const others = lines.filter((line) => !SECRET_LINE.test(line)).join('\n');
  for (const line of lines.filter((one) => SECRET_LINE.test(one))) {
    for (const [key] of line.matchAll(/[A-Za-z0-9+/]{43}=|[0-9a-fA-F]{64}/g)) {
      for (let at = 0; at + 12 <= key.length; at++) {
        const part = key.slice(at, at + 12);
        // What stands elsewhere too is shown for other reasons.
        if (others.includes(part)) continue;
        require(!message.includes(part), 'a key is shown in an error');
      }
    }
  }
}

/** The words of a message that are its own and not the input's. */
function shapeOf(input: string, message: string): string {
  const words = message.slice(0, 400).match(/\b[a-z]{2,}\b/g) ?? [];
  const given = `${input} ${input.replace(/\s+/g, '')}`;
  return [...new Set(words)].filter((word) => !given.includes(word)).join(' ');
}

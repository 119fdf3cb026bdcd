/** What a command prints, collected for the tests that call it without a program around it. */
import type { Output } from '../../shared/program.ts';

/** `shown`: facts, and their text. `said`: talk and warnings, in their order. */
export function collectOutput() {
  const shown: { readonly value: unknown; readonly text: string }[] = [];
  const said: string[] = [];
  const output = {
    facts: (value: unknown, text: string) => shown.push({ value, text }),
    warn: (text: string) => said.push(text),
    talk: (text: string) => said.push(text),
  } as unknown as Output;
  return { shown, said, output };
}

/** A host whose commands are remembered instead of run. */
import { VpnError } from '../../shared/errors.ts';
import type { Run } from '../../shared/system/run.ts';

/** Remembers commands; `answer` gives what one prints, or throws. */
export class FakeHost {
  readonly ran: string[] = [];
  answer: (line: string) => string = () => '';
  readonly run: Run = async (file, args) => {
    const line = [file, ...args].join(' ');
    if (
      !/^ip (-[46] )?-json (-details -Numeric )?(address|route|link) show|^nft --check/.test(line)
    ) {
      this.ran.push(line);
    }
    return { stdout: this.answer(line), stderr: '' };
  };
}

/** What a command that exits 2 with this message rejects with. */
export function failed(stderr: string): VpnError {
  const cause = { file: 'ip', args: [], exitCode: 2, stderr };
  return new VpnError('COMMAND_FAILED', stderr, { cause });
}

/** The code of the error that this rejects with. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => null,
    (e: unknown) => e,
  );
  if (error instanceof VpnError) return error.code;
  throw error ?? new Error('no error');
}

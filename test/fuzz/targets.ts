/** All targets in TypeScript; those in C++ are native/fuzz_*.cc. */
import type { FuzzTarget } from './target.ts';
import { configuration } from './targets/configuration.ts';
import { control } from './targets/control.ts';
import { inviteText } from './targets/invite.ts';
import { keyFile } from './targets/key-file.ts';
import { profile } from './targets/profile.ts';
import { uapi } from './targets/uapi.ts';

export const TARGETS: readonly FuzzTarget[] = [
  uapi,
  control,
  inviteText,
  profile,
  keyFile,
  configuration,
];

#!/usr/bin/env node
/** vpn-client: argv, environment and exit code; the commands are commands.ts. */
import { setFlagsFromString } from 'node:v8';
import { createProgram } from './commands.ts';

// A client allocates little once it stands: without this, what its start leaves in V8's young
// generation stays with the process for good, 4 MB (measured).
setFlagsFromString('--semi-space-growth-factor=1');
// State, sockets and keys are nobody else's business.
const umask = process.umask(0o077);
const { argv, env, stdout, stderr } = process;
process.exitCode = await createProgram({ argv: argv.slice(2), env, stdout, stderr, umask }).run();

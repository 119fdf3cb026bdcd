#!/usr/bin/env node
/** vpn-client: argv, environment and exit code; the commands are commands.ts. */
import { createProgram } from './commands.ts';

// State, sockets and keys are nobody else's business.
process.umask(0o077);
const { argv, env, stdout, stderr } = process;
process.exitCode = await createProgram({ argv: argv.slice(2), env, stdout, stderr }).run();

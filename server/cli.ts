#!/usr/bin/env node
/** vpn-server: argv, environment and exit code; the commands are commands.ts. */
import { keepHeapSmall } from '../shared/small-heap.ts';
import { forbidDebugger } from '../shared/system/debugger.ts';

forbidDebugger();
// Before the imports that fill the heap.
keepHeapSmall();
const { createProgram } = await import('./commands.ts');

// State, sockets and keys are nobody else's business.
process.umask(0o077);
const { argv, env, stdout, stderr } = process;
process.exitCode = await createProgram({ argv: argv.slice(2), env, stdout, stderr }).run();

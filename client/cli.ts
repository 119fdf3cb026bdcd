#!/usr/bin/env node
/** vpn-client: argv, environment and exit code; the commands are commands.ts. */
import { keepHeapSmall } from '../shared/small-heap.ts';
import { forbidDebugger } from '../shared/system/debugger.ts';

/** Exit code of a program that SIGHUP ended. */
const HANGUP = 129;

forbidDebugger();
// Before the imports that fill the heap.
keepHeapSmall();
const { createProgram } = await import('./commands.ts');

// State, sockets and keys are nobody else's business.
const umask = process.umask(0o077);
const { argv, env, stdout, stderr } = process;
const code = await createProgram({ argv: argv.slice(2), env, stdout, stderr, umask }).run();
process.exitCode = code;
// A name server may be silent for half a minute, and the end of the process would wait for it. And
// of a terminal that closed node wants to put back the settings, and aborts when it cannot.
const closed = code === HANGUP;
if (closed || process.getActiveResourcesInfo().includes('GetAddrInfoReqWrap')) {
  const { endNow } = await import('../native/index.ts');
  endNow(code);
}

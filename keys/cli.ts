#!/usr/bin/env node
/** vpn-keygen: argv, environment, standard input and exit code; the commands are commands.ts. */
import { fstatSync, readFileSync } from 'node:fs';
import { createProgram } from './commands.ts';

const { argv, env, stdout, stderr } = process;
process.exitCode = await createProgram(
  { argv: argv.slice(2), env, stdout, stderr },
  { readInput: () => readFileSync(0), outputMode: () => fstatSync(1).mode },
).run();

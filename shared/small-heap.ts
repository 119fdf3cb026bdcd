/**
 * Flags of V8 for programs that run for months beside others and whose JavaScript has little to
 * do: a small heap matters more than fast collections and early optimization. Imports nothing of
 * ours, so that a program can call it before the imports that fill the heap.
 */
import { setFlagsFromString } from 'node:v8';

/** Resident memory of a server that has just started, on Node 20.20: 85 MB without, 70 with them. */
export function keepHeapSmall(): void {
  // The young generation stays as small as it begins.
  setFlagsFromString('--semi-space-growth-factor=1');
  setFlagsFromString('--optimize-for-size');
  // How much bytecode a function runs before it is optimized, eight times the default: a start
  // makes nothing hot enough, and each optimization leaves memory behind. Later versions of V8
  // have no such flag, and would complain.
  if (process.versions.node.startsWith('20.')) setFlagsFromString('--interrupt-budget=1000000');
}

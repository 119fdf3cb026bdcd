import { defineConfig } from 'vitest/config';

/** Namespace tests need root. */
const NETNS = ['test/netns/**/*.test.ts', 'test/wire/**/*.test.ts', 'test/contract/addon*.test.ts'];
const SOAK = ['test/soak/**/*.test.ts'];
const SYSTEM = ['test/system/**/*.test.ts'];

/** Files at a time: many tests wait, and every file is a process that has to start. */
const AT_ONCE = 4;

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: [...NETNS, ...SOAK, ...SYSTEM],
          maxWorkers: AT_ONCE,
          testTimeout: 60_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: 'netns',
          include: NETNS,
          pool: 'forks',
          maxWorkers: AT_ONCE,
          // Every wait in them has a bound of its own: these end only what hangs.
          testTimeout: 400_000,
          hookTimeout: 120_000,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: 'soak',
          include: SOAK,
          pool: 'forks',
          maxWorkers: 1,
          testTimeout: 3_600_000,
          hookTimeout: 60_000,
          sequence: { groupOrder: 2 },
        },
      },
      {
        test: {
          name: 'system',
          include: SYSTEM,
          pool: 'forks',
          maxWorkers: 1,
          testTimeout: 180_000,
          hookTimeout: 120_000,
          sequence: { groupOrder: 3 },
        },
      },
    ],
  },
});

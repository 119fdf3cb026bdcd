// Runs a script of this folder (default check) under another version of node, which npm fetches into
// build/: node scripts/other-node.mjs VERSION [SCRIPT [ARGUMENT ...]]
// The next set-up under this node builds what has to be built for it again.
import { existsSync } from 'node:fs';
import { delimiter, dirname } from 'node:path';
import { inRoot, must, run } from './steps.mjs';

const [version = '', script = 'check', ...rest] = process.argv.slice(2);
const file = inRoot(`scripts/${script}.mjs`);
if (!/^\d+(\.\d+){0,2}$/.test(version) || !existsSync(file)) {
  console.error('usage: npm run other-node -- VERSION [SCRIPT [ARGUMENT ...]]   as in: 26 check');
  process.exit(2);
}

const folder = inRoot(`build/node-${version}`);
const name = `node-linux-${process.arch}`;
await must('npm', ['install', '--no-save', '--prefix', folder, `${name}@${version}`]);
const node = `${folder}/node_modules/${name}/bin/node`;
// Set-up and tests start further nodes by name.
const env = { PATH: `${dirname(node)}${delimiter}${process.env.PATH}` };
console.log(`under node ${(await must(node, ['--version'])).trim()}: scripts/${script}.mjs`);
await must(node, [inRoot('scripts/setup.mjs')], { env });
const { code } = await run(node, [file, ...rest], { env, loud: true });
process.exit(code);

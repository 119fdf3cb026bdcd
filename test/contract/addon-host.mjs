// Data planes of the addon, driven by JSON lines: node addon-host.mjs COMMANDS ANSWERS (two FIFOs).
//   {"plane":"a","verb":"open","args":[options]}  a new data plane called a; its events are kept
//   {"plane":"a","verb":"setPeer","args":[...]}   any verb of DataPlane
//   {"plane":"a","verb":"events","args":[]}       the events since the last time
// Answers {"result":...} or {"error":"..."}. Bytes are {"base64":"..."}. readStats takes the number
// of words its array has and answers {rows, words}; installKeypair answers its keys as they are
// afterwards. The build is that of this checkout: dist/ and build/.
import { createReadStream, openSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { createDataPlane } from '../../dist/native/index.js';

const [commands, answers] = process.argv.slice(2);
const planes = new Map();

const unpack = (_, value) =>
  typeof value?.base64 === 'string' ? new Uint8Array(Buffer.from(value.base64, 'base64')) : value;
const pack = (_, value) => {
  if (value instanceof Uint8Array) return { base64: Buffer.from(value).toString('base64') };
  return typeof value === 'bigint' ? String(value) : value;
};

const special = {
  open(name, [options]) {
    const events = [];
    const plane = createDataPlane();
    const opened = plane.open(options, (event) => events.push(event));
    planes.set(name, { plane, events });
    return opened;
  },
  events: (name) => planes.get(name).events.splice(0),
  readStats(name, [length]) {
    const words = new BigUint64Array(length);
    return { rows: planes.get(name).plane.readStats(words), words: [...words] };
  },
  installKeypair(name, [peer, keypair]) {
    planes.get(name).plane.installKeypair(peer, keypair);
    return [keypair.sendKey, keypair.receiveKey];
  },
};

function perform({ plane, verb, args }) {
  if (verb in special) return special[verb](plane, args);
  return planes.get(plane).plane[verb](...args);
}

const out = openSync(answers, 'w');
for await (const line of createInterface({ input: createReadStream(commands) })) {
  let answer;
  try {
    answer = { result: perform(JSON.parse(line, unpack)) };
  } catch (error) {
    answer = { error: `${error.code ?? ''} ${error.message}` };
  }
  writeSync(out, `${JSON.stringify(answer, pack)}\n`);
}

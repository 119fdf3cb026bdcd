// Says a text to an echo server and checks the answer, over UDP and TCP from one bound address:
// node talk.mjs FROM-ADDRESS FROM-PORT TO-ADDRESS TO-PORT TEXT
// Prints {"udp":true,"tcp":true}; exit code 1 when an answer is wrong or does not come in 10 s.
import { createSocket } from 'node:dgram';
import { connect } from 'node:net';

const [fromAddress, fromPort, toAddress, toPort, text] = process.argv.slice(2);
const expected = Buffer.from(text);
setTimeout(() => process.exit(1), 10_000).unref();

async function overUdp() {
  const socket = createSocket('udp4');
  await new Promise((resolve) => socket.bind(Number(fromPort), fromAddress, resolve));
  const answer = new Promise((resolve) => socket.once('message', resolve));
  const again = setInterval(() => socket.send(expected, Number(toPort), toAddress), 1_000);
  socket.send(expected, Number(toPort), toAddress);
  const same = expected.equals(await answer);
  clearInterval(again);
  socket.close();
  return same;
}

async function overTcp() {
  const target = { host: toAddress, port: Number(toPort) };
  const source = { localAddress: fromAddress, localPort: Number(fromPort) };
  const socket = connect({ ...target, ...source });
  socket.end(expected);
  const parts = [];
  for await (const part of socket) parts.push(part);
  return expected.equals(Buffer.concat(parts));
}

const result = { udp: await overUdp(), tcp: await overTcp() };
console.log(JSON.stringify(result));
process.exit(result.udp && result.tcp ? 0 : 1);

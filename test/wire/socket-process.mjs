/**
 * UDP sockets inside the network namespace this process was started in, driven by JSON lines on
 * stdin and stdout. It carries bytes and knows nothing of WireGuard: the peer itself stays in the
 * test's process.
 *
 *   in   {"op":"open","id":1,"address":"10.0.0.2","port":0}
 *        {"op":"send","id":1,"address":"10.0.0.1","port":6000,"datagrams":["<base64>", ...]}
 *        {"op":"close","id":1}
 *   out  {"event":"open","id":1,"address":"10.0.0.2","port":40000}
 *        {"event":"sent","id":1,"count":3}
 *        {"event":"datagram","id":1,"at":123.4,"address":"10.0.0.1","port":6000,"bytes":"<base64>"}
 *        {"event":"error","id":1,"message":"..."}
 *
 * `at` is CLOCK_MONOTONIC in milliseconds. The process ends when stdin ends.
 */
import dgram from 'node:dgram';
import { createInterface } from 'node:readline';

const sockets = new Map();
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function open({ id, address, port }) {
  const socket = dgram.createSocket({ type: address.includes(':') ? 'udp6' : 'udp4' });
  sockets.set(id, socket);
  socket.on('error', (error) => say({ event: 'error', id, message: error.message }));
  socket.on('message', (bytes, from) =>
    say({
      event: 'datagram',
      id,
      at: Number(process.hrtime.bigint()) / 1e6,
      address: from.address,
      port: from.port,
      bytes: bytes.toString('base64'),
    }),
  );
  socket.bind(port, address, () => {
    socket.setRecvBufferSize(4 << 20);
    const bound = socket.address();
    say({ event: 'open', id, address: bound.address, port: bound.port });
  });
}

function send({ id, address, port, datagrams }) {
  const socket = sockets.get(id);
  let left = datagrams.length;
  const done = (error) => {
    if (error) say({ event: 'error', id, message: error.message });
    left -= 1;
    if (left === 0) say({ event: 'sent', id, count: datagrams.length });
  };
  for (const datagram of datagrams)
    socket.send(Buffer.from(datagram, 'base64'), port, address, done);
}

function close({ id }) {
  sockets.get(id)?.close();
  sockets.delete(id);
}

const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => {
  const command = JSON.parse(line);
  if (command.op === 'open') open(command);
  else if (command.op === 'send') send(command);
  else if (command.op === 'close') close(command);
});
lines.on('close', () => process.exit(0));

"""Packet sockets for the contract, driven by JSON lines: python3 packets.py COMMANDS ANSWERS.

Node has no packet sockets; python3 is on every machine that can build the addon (node-gyp is
written in it). One namespace: tun devices without addresses, and the underlay on lo.

  {"op":"watch","devices":["cta0","ctb0"],"port":6000}  from now on; `port`: a's UDP port
  {"op":"inject","device":"cta0","packets":[BYTES]}     the host sends IP packets into a tun
  {"op":"collect","device":"ctb0"}                      IP packets that came out of a tun
  {"op":"last"}                                         a's latest datagram, or null
  {"op":"send","to":6001,"datagram":BYTES}              a datagram from another port
  {"op":"busy"}                                         true: something is still on its way

BYTES is {"base64":"..."}.
"""

import base64
import json
import socket
import struct
import sys

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
PACKET_OUTGOING = 4
SO_RCVBUFFORCE = 33
IP, UDP, HEADERS = 20, 8, 28

state = {"sockets": {}, "got": {}, "injected": {}, "port": 0, "last": None}


def open_packet_socket(device):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
    s.bind((device, ETH_P_ALL))
    s.setblocking(False)
    return s


def drain():
    for device, s in state["sockets"].items():
        while True:
            try:
                data, address = s.recvfrom(65536)
            except BlockingIOError:
                break
            outgoing = address[2] == PACKET_OUTGOING
            if device == "lo":
                from_a = outgoing and data[9] == socket.IPPROTO_UDP
                if from_a and struct.unpack_from("!H", data, IP)[0] == state["port"]:
                    state["last"] = data[HEADERS:]
            elif not outgoing:
                state["got"][device].append(data)


def watch(command):
    for s in state["sockets"].values():
        s.close()
    devices = command["devices"]
    state["sockets"] = {d: open_packet_socket(d) for d in [*devices, "lo"]}
    state["got"] = {d: [] for d in devices}
    state["injected"] = {d: transmitted(d) for d in devices}
    state["port"] = command["port"]
    state["last"] = None


def inject(command):
    device = command["device"]
    for packet in [unpack(p) for p in command["packets"]]:
        kind = ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6
        state["sockets"][device].sendto(packet, (device, kind))
        state["injected"][device] += 1


def collect(command):
    drain()
    packets = state["got"][command["device"]]
    state["got"][command["device"]] = []
    return [pack(p) for p in packets]


def last(_):
    drain()
    return None if state["last"] is None else pack(state["last"])


def send(command):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(unpack(command["datagram"]), ("127.0.0.1", command["to"]))


def transmitted(device):
    """Packets that were read from a tun, or lost before."""
    with open("/proc/net/dev") as f:
        fields = next(line for line in f if line.strip().startswith(device + ":")).split()
    return int(fields[10]) + int(fields[12])


def busy(_):
    drain()
    with open("/proc/net/udp") as f:
        queued = any(not line.split()[4].endswith(":00000000") for line in list(f)[1:])
    return queued or any(transmitted(d) < n for d, n in state["injected"].items())


def pack(data):
    return {"base64": base64.b64encode(data).decode()}


def unpack(value):
    return base64.b64decode(value["base64"])


OPERATIONS = {
    "watch": watch,
    "inject": inject,
    "collect": collect,
    "last": last,
    "send": send,
    "busy": busy,
}

with open(sys.argv[1]) as commands, open(sys.argv[2], "w") as answers:
    for line in commands:
        command = json.loads(line)
        try:
            answer = {"result": OPERATIONS[command["op"]](command)}
        except Exception as error:  # reported to the test, which fails with it
            answer = {"error": repr(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

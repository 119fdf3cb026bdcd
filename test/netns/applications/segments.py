"""UDP super-packets from an application: python3 segments.py FROM ADDRESS PORT

Sends with UDP_SEGMENT (udp(7)), which Node cannot: the kernel hands the tun one packet for many
datagrams. An echo server answers; prints "intact N" when each datagram came back as it was.
"""

import os
import socket
import struct
import sys

UDP_SEGMENT = 103
# (bytes of a segment, number of them, bytes of a shorter last one); IPv6 leaves 1372 at MTU 1420.
SHAPES = [(1372, 20, 0), (1372, 20, 7), (1000, 40, 999), (101, 64, 0), (1, 30, 0), (1371, 1, 5)]

source, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
total = 0
with socket.socket(family, socket.SOCK_DGRAM) as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    s.bind((source, 0))
    s.connect((address, port))
    s.settimeout(5)
    for size, count, rest in SHAPES:
        parts = [os.urandom(size) for _ in range(count)]
        if rest:
            parts.append(os.urandom(rest))
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
        s.sendmsg([b"".join(parts)], control)
        answers = [s.recv(65536) for _ in parts]
        if answers != parts:
            sys.exit(f"{len(parts)} datagrams of {size} bytes came back changed")
        total += len(parts)
print(f"intact {total}")

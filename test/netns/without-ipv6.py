"""Runs a command on what looks like a kernel without IPv6: python3 without-ipv6.py COMMAND ...

socket(AF_INET6, ...) fails with EAFNOSUPPORT, by a seccomp filter that the command inherits.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, FIRST_ARGUMENT = 0, 16  # offsets in struct seccomp_data
SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]


def instruction(code, yes, no, value):
    return struct.pack("HBBI", code, yes, no, value)


program = ctypes.create_string_buffer(
    b"".join(
        [
            instruction(LOAD_WORD, 0, 0, NUMBER),
            instruction(JUMP_EQUAL, 0, 3, SOCKET),
            instruction(LOAD_WORD, 0, 0, FIRST_ARGUMENT),
            instruction(JUMP_EQUAL, 0, 1, socket.AF_INET6),
            instruction(RETURN, 0, 0, ERRNO | errno.EAFNOSUPPORT),
            instruction(RETURN, 0, 0, ALLOW),
        ]
    ),
    6 * 8,
)
prog = struct.pack("HxxxxxxQ", 6, ctypes.addressof(program))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
if libc.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.create_string_buffer(prog, len(prog)), 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])

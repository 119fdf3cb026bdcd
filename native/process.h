// process.h - what the running program asks of the kernel and Node cannot: datagrams to a unix
// socket, who is at the other end of one, and no core dumps. Thread: JS thread.
#pragma once

#include <string>

#include "base.h"

namespace culvert {

// Sends one datagram to the unix socket at `path`; `@name` is an abstract one, as systemd writes
// them. Never waits: a full socket is EAGAIN.
Result<Nothing> send_unix_datagram(const std::string& path, const std::string& text);

// A process at the other end of a unix stream socket, as it was at connect() or listen().
struct PeerProcess {
  uint32_t user;
  int32_t process;
};

// Who is at the other end of the unix stream socket `fd` (SO_PEERCRED, unix(7)).
Result<PeerProcess> peer_process(int fd);

// Keeps this process out of core dumps, also those that go to a pipe, and its memory from other
// processes of its user: it holds keys. Lost at exec, so children are as they would be.
Result<Nothing> forbid_core_dumps();

// Ends this process with `exit_code` and waits for no thread: one may be in the system's resolver,
// which cannot be interrupted. No handler runs, no stream is flushed.
[[noreturn]] void end_now(int exit_code);

}  // namespace culvert

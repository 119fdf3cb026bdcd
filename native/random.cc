#include "random.h"

#include <cerrno>
#include <cstdlib>

#include <sys/random.h>

namespace culvert {

void random_bytes(void* out, size_t n) {
  // Fewer than 257 bytes come whole or not at all, and only before the first seed of the kernel
  // can a signal interrupt.
  while (::getrandom(out, n, 0) != static_cast<ssize_t>(n)) {
    if (errno != EINTR) std::abort();
  }
}

}  // namespace culvert

// random.h - random bytes of the kernel, for what must not be guessed.
#pragma once

#include <cstddef>

namespace culvert {

// Fills up to 256 bytes; ends the process when the kernel has none to give, since without them
// there is nothing safe to go on with. Thread: any.
void random_bytes(void* out, size_t n);

}  // namespace culvert

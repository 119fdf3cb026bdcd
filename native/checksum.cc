#include "checksum.h"

#include <cstring>

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !defined(__clang__)
#define CULVERT_VECTOR_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CULVERT_VECTOR_CLONES
#endif

namespace culvert {

// One clone per vector width; the loop is written so that the compiler turns the eight partial
// sums into vector lanes. 32-bit words into 64-bit lanes cannot overflow for any packet.
CULVERT_VECTOR_CLONES uint64_t checksum_add(const uint8_t* data, size_t bytes, uint64_t sum) {
  uint64_t lane[16] = {};
  while (bytes >= 64) {
    uint32_t words[16];
    std::memcpy(words, data, 64);
    for (int i = 0; i < 16; i++) lane[i] += words[i];
    data += 64;
    bytes -= 64;
  }
  for (const uint64_t l : lane) sum += l;
  while (bytes >= 4) {
    uint32_t word;
    std::memcpy(&word, data, 4);
    sum += word;
    data += 4;
    bytes -= 4;
  }
  // The last one to three bytes count as if zeros followed.
  uint32_t tail = 0;
  if (bytes > 0) std::memcpy(&tail, data, bytes);
  return sum + tail;
}

}  // namespace culvert

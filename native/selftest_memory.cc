// selftest_memory.cc - what is given back to the kernel, and above all what is not.
#include <sys/mman.h>

#include <cinttypes>
#include <cstring>

#include "memory.h"
#include "selftest.h"

namespace culvert::selftest {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kPages = 256;
constexpr size_t kBytes = kPages * kPage;

// Pages of the program's file. Looked at only through these pointers, so that the compiler does not
// know what is there.
alignas(kPage) const uint8_t kReadOnly[kBytes] = {1};
alignas(kPage) const uint8_t kTable[kPage] = {1};
const volatile uint8_t* volatile read_only = kReadOnly;
const volatile uint8_t* volatile table = kTable;

// Resident bytes of this mapping, KiB.
unsigned long resident_kib(const volatile void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  FILE* smaps = std::fopen("/proc/self/smaps", "re");
  char line[512];
  bool here = false;
  unsigned long kib = 0;
  while (smaps != nullptr && std::fgets(line, sizeof line, smaps) != nullptr) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &begin, &end) == 2) {
      here = begin <= at && at < end;
    } else if (here && std::sscanf(line, "Rss: %lu", &kib) == 1) {
      break;
    }
  }
  if (smaps != nullptr) (void)std::fclose(smaps);
  return kib;
}

}  // namespace

void test_memory() {
  // Pages that were only read go, and come back with what the file holds.
  unsigned sum = 0;
  for (size_t i = 0; i < kBytes; i += kPage) sum += read_only[i];
  CHECK(sum == 1);
  const unsigned long before = resident_kib(kReadOnly);
  give_back_memory();
  CHECK(before >= kBytes / 1024);
  // The kernel maps neighbours of the pages that are read, 64 KiB at a time.
  CHECK(resident_kib(kReadOnly) + kBytes / 1024 / 2 <= before);
  CHECK(read_only[0] == 1);

  // As the loader leaves tables of addresses: written once, then read only. They stay as written.
  void* page = const_cast<uint8_t*>(kTable);
  CHECK(::mprotect(page, kPage, PROT_READ | PROT_WRITE) == 0);
  std::memset(page, 7, kPage);
  CHECK(::mprotect(page, kPage, PROT_READ) == 0);
  give_back_memory();
  CHECK(table[0] == 7 && table[kPage - 1] == 7);

  // Memory of the allocator stays, whatever is freed around it.
  Random random(20);
  std::vector<std::vector<uint8_t>> kept;
  for (int i = 0; i < 1000; i++) {
    kept.push_back(random.bytes(1 + random.below(3000)));
    (void)random.bytes(1 + random.below(3000));
  }
  const std::vector<std::vector<uint8_t>> copies = kept;
  give_back_memory();
  CHECK(kept == copies);
}

}  // namespace culvert::selftest

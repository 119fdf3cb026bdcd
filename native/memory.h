// memory.h - gives memory that this process holds but does not use back to the kernel.
// Thread: JS thread.
#pragma once

namespace culvert {

// Frees what the allocator keeps for itself, and unmaps the pages of the program and its libraries
// that the kernel can read again from their files. Those stay in the page cache; a page that is
// needed after all costs a minor fault. Some milliseconds; does nothing where /proc is not there.
void give_back_memory();

}  // namespace culvert

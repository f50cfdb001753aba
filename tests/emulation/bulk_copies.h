// What barriers that count bytes and copies by TMA remember (barriers.cpp, bulk_copies.cpp).
#pragma once

#include <cstdint>

#include "tensor_map.h"

namespace emulation {

struct Thread;

/// An mbarrier. In shared memory stands its index among the block's, so that it is noticed when
/// something overwrites it.
struct PhaseBarrier {
    std::uint32_t offset;
    int arrivals;            // of every phase
    int missing;             // of them, in this phase
    std::int64_t bytes = 0;  // expected and not there; below 0: there before they were expected
    std::uint32_t phase = 0;
    int waiters = 0;  // for this phase
    int late = 0;     // for the one before, and have not gone on yet
    const Thread* initialiser;
    bool fenced = false;  // by fence_barrier_init
    int epoch = 0;        // of the block, then
};

struct BulkCopy {
    MapDescription map;
    int at[4];   // of the first element
    int tap[2];  // width, height
    unsigned char* to;
    std::uint32_t barrier, phase;
    Thread* issuer;
    const char* file;
    int line;

    std::int64_t byte_count() const { return std::int64_t{map.line_count()} * 128; }
};

}  // namespace emulation

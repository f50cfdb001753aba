// What barriers that count bytes and copies by TMA remember (barriers.cpp, bulk_copies.cpp,
// bulk_stores.cpp).
#pragma once

#include <cstdint>
#include <vector>

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
    unsigned char* shared;
    std::uint32_t barrier, phase;  // of copies to shared memory
    Thread* issuer;
    const char* file;
    int line;

    std::size_t byte_count() const { return static_cast<std::size_t>(map.line_count()) * 128; }
};

/// A copy out of shared memory.
struct BulkStore {
    BulkCopy copy;
    int group;                         // of its thread
    bool was_read = false;             // as that thread knows
    std::vector<unsigned char> bytes;  // as they were at the issue
};

/// A copy's lines of 64 elements, one after another, and where each is in the tensor.
class BulkLines {
public:
    explicit BulkLines(const BulkCopy& copy);
    void next();
    /// Of the line's first element inside the tensor; null if it has none.
    unsigned char* global() const;
    /// Elements of the line that are inside the tensor.
    int begin() const { return begin_; }
    int end() const { return end_; }

private:
    const BulkCopy& copy_;
    int at_[3];
    int begin_, end_;
};

/// 16-byte chunk `chunk` of a copy's line, from the copy's place in shared memory.
constexpr int swizzled_chunk(int line, int chunk) { return line * 128 + (chunk ^ (line & 7)) * 16; }

}  // namespace emulation

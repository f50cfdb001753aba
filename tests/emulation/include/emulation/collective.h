// What threads do together: the seam between the intrinsics (device.h, cuda/ptx.cuh), which gather
// a thread's operands, and the engine, which makes threads wait for each other.
#pragma once

#include "emulation/vector_types.h"

namespace emulation {

/// An instruction that the lanes of a warp execute together.
struct Collective {
    const char* name;
    bool whole_warp;  // undefined unless all 32 lanes take part
    /// operands[lane] is what that lane passed to meet(), for every lane whose bit is set.
    void (*complete)(void* const* operands, unsigned lanes);
};

/// Returns once every lane of `mask` has come here with the same collective from the same source
/// line, and complete() has run once for all of them.
void meet(const Collective& collective, void* operands, unsigned mask, const char* file, int line);

/// __syncthreads and its relatives (`name`): returns how many of the block's threads came with a
/// predicate that is not 0.
int meet_block(const char* name, bool predicate, const char* file, int line);

/// Ends the launch with an error that says `what` of the running thread.
[[noreturn]] void fail_thread(const char* what, const char* file, int line);

unsigned lane();
unsigned char* block_shared_memory();

// cp.async of the running thread: see instructions.cpp.
void copy_async(void* shared, const void* global, int bytes, bool valid, const char* file,
                int line);
void commit_copies();
void wait_for_copies(int pending);

}  // namespace emulation

// Initial-exec: one instruction instead of a call to __tls_get_addr for each use.
#define FASTCONV_PER_THREAD extern __thread __attribute__((tls_model("initial-exec")))
FASTCONV_PER_THREAD uint3 threadIdx;
FASTCONV_PER_THREAD uint3 blockIdx;
FASTCONV_PER_THREAD uint3 blockDim;
FASTCONV_PER_THREAD uint3 gridDim;
#undef FASTCONV_PER_THREAD
constexpr int warpSize = 32;

// Which of the streams' work comes before which, though all of it is done at once: so that tests see
// a wait that is missing.
#pragma once

#include <cstdint>
#include <map>

#include "include/emulation/api.h"

namespace emulation {

/// What is over when something begins: so many pieces of each stream's work.
using Before = std::map<cudaStream_t, std::uint64_t>;

/// A piece of work more on `stream`, after what it and the host have waited for.
void begin_work(cudaStream_t stream);
/// What a wait for the stream's work so far waits for.
Before end_of(cudaStream_t stream);
/// Work on `stream` from here on comes after that; work of every stream, where the host has waited.
void wait_on(cudaStream_t stream, const Before& before);
void host_waits_for(const Before& before);

}  // namespace emulation

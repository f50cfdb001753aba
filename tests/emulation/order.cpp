// order.h, as a clock of each stream that counts what all streams have done before its next work.
#include "order.h"

#include <algorithm>
#include <mutex>

namespace emulation {
namespace {

struct Clocks {
    std::mutex mutex;
    std::map<cudaStream_t, Before> of;
    Before host;
};
Clocks& clocks() {
    static Clocks* const all = new Clocks;
    return *all;
}

/// The legacy default stream has two names.
cudaStream_t named(cudaStream_t stream) { return stream == cudaStreamLegacy ? nullptr : stream; }

void merge(Before& into, const Before& other) {
    for (const auto& [stream, count] : other) into[stream] = std::max(into[stream], count);
}

}  // namespace

void begin_work(cudaStream_t stream) {
    const std::lock_guard lock(clocks().mutex);
    Before& clock = clocks().of[named(stream)];
    merge(clock, clocks().host);
    ++clock[named(stream)];
}

Before end_of(cudaStream_t stream) {
    const std::lock_guard lock(clocks().mutex);
    return clocks().of[named(stream)];
}

void wait_on(cudaStream_t stream, const Before& before) {
    const std::lock_guard lock(clocks().mutex);
    merge(clocks().of[named(stream)], before);
}

void host_waits_for(const Before& before) {
    const std::lock_guard lock(clocks().mutex);
    merge(clocks().host, before);
}

}  // namespace emulation

/// For tests: whether what `later` is given from here on comes after all that `earlier` has been given.
extern "C" __attribute__((visibility("default"))) bool emulation_comes_after(cudaStream_t later,
                                                                             cudaStream_t earlier) {
    using namespace emulation;
    const std::lock_guard lock(clocks().mutex);
    Before before = clocks().of[named(later)];
    merge(before, clocks().host);
    return before[named(earlier)] >= clocks().of[named(earlier)][named(earlier)];
}

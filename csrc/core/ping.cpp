#include "core/ping.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace fastconv {
namespace {

constexpr int kChunk = 50;  // round trips a chunk: one interrupt spoils one chunk only

#if defined(__linux__)
bool pin(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;  // 0: the calling thread
}

std::vector<int> first_and_last_processor() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return {};
    std::vector<int> processors;
    for (int i = 0; i < CPU_SETSIZE; ++i)
        if (CPU_ISSET(i, &set)) processors.push_back(i);
    if (processors.size() < 2) return {};
    return {processors.front(), processors.back()};
}
#else
bool pin(int) { return false; }
std::vector<int> first_and_last_processor() { return {}; }
#endif

// Waits until the counter shows `value`. The other side may have lost its processor: give way.
void wait_for(const std::atomic<int>& counter, int value) {
    for (int tries = 0; counter.load(std::memory_order_acquire) != value; ++tries)
        if (tries > 100000) std::this_thread::yield();
}

}  // namespace

double ping_nanoseconds(int rounds) {
    const std::vector<int> processors = first_and_last_processor();
    if (processors.empty()) return 0;
    const int chunks = std::max(1, rounds / kChunk), trips = chunks * kChunk;
    alignas(128) std::atomic<int> counter{-1};  // even: the answer is due; odd: answered
    std::vector<double> nanoseconds;
    std::atomic<bool> pinned{true};

    std::thread answering([&] {
        if (!pin(processors[1])) pinned = false;
        counter.store(0, std::memory_order_release);
        for (int trip = 0; trip < trips; ++trip) {
            wait_for(counter, 2 * trip + 1);
            counter.store(2 * trip + 2, std::memory_order_release);
        }
    });
    std::thread asking([&] {
        if (!pin(processors[0])) pinned = false;
        wait_for(counter, 0);
        for (int chunk = 0; chunk < chunks; ++chunk) {
            const auto start = std::chrono::steady_clock::now();
            for (int trip = chunk * kChunk; trip < (chunk + 1) * kChunk; ++trip) {
                counter.store(2 * trip + 1, std::memory_order_release);
                wait_for(counter, 2 * trip + 2);
            }
            const std::chrono::duration<double, std::nano> spent =
                std::chrono::steady_clock::now() - start;
            nanoseconds.push_back(spent.count() / kChunk);
        }
    });
    asking.join();
    answering.join();
    if (!pinned) return 0;
    std::nth_element(nanoseconds.begin(), nanoseconds.begin() + chunks / 2, nanoseconds.end());
    return nanoseconds[chunks / 2];
}

}  // namespace fastconv

// Threads: the one place that knows them.
//
//     parallel_for(tasks, threads, mode, [&](int64_t task, int worker) { ... });
//
// calls body(task, worker) once for every task in [0, tasks); each thread begins with a stretch of its
// own, in ascending order, the same in every call that all threads are free for.
// worker is in [0, threads) and unique among the threads that take part in this call. How the work
// is cut into tasks must depend on shapes alone: which thread does a task must never change a bit.
// With tasks <= 1 or threads <= 1, and inside another parallel_for, everything runs on the caller.
// The first exception of a body reaches the caller, after the tasks under way have ended; tasks not
// yet handed out are dropped. Fewer threads than asked for may come (others are busy with another
// caller's loop, or the system has no more): never wait in a body for another task.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/float_mode.h"

namespace fastconv {

constexpr int kMaxThreads = 256;
constexpr std::size_t kMaxThreadScratch = std::size_t{4} << 20;
// Of plans that read all weights once a block, from caches that hold more than a block.
constexpr std::size_t kMaxBlockScratch = 2 * kMaxThreadScratch;

// How many threads a call uses: set_num_threads(), else FASTCONV_NUM_THREADS, else the least of the
// affinity mask, the cgroup's quota and OMP_NUM_THREADS. std::invalid_argument if the variable says
// something that is not a number of threads.
int num_threads();
void set_num_threads(int threads);  // std::invalid_argument unless 1 <= threads <= kMaxThreads

// At least `bytes` of memory that belongs to the calling thread, 64-byte aligned, kept between calls
// and valid until this thread asks again: ask once a task, for everything the task needs. Arenas of
// different threads start at odd multiples of 192 bytes within their pages, so that equal offsets
// do not fall into equal cache sets. From 1 MB on whole huge pages: 1.03x on Winograd blocks of
// 1.7 to 5 MB. Throws std::length_error beyond kMaxBlockScratch.
void* thread_scratch(std::size_t bytes);

using TaskFunction = void (*)(void* body, std::int64_t task, int worker);
void run_tasks(std::int64_t tasks, int threads, FloatMode mode, TaskFunction function, void* body);

template <class Body>
void parallel_for(std::int64_t tasks, int threads, FloatMode mode, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    const auto call = [](void* erased, std::int64_t task, int worker) {
        (*static_cast<Plain*>(erased))(task, worker);
    };
    run_tasks(tasks, threads, mode, call, const_cast<std::remove_const_t<Plain>*>(&body));
}

}  // namespace fastconv

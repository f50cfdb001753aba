// Threads started for each call: correct, and to be replaced by a pool.
#include "core/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace fastconv {
namespace {

thread_local bool inside_parallel = false;

int default_threads() {
    if (const char* text = std::getenv("FASTCONV_NUM_THREADS")) {
        const int value = std::atoi(text);
        if (value >= 1) return std::min(value, kMaxThreads);
    }
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
    return 1;
}

std::atomic<int> chosen_threads{0};

struct ScratchArena {
    std::byte* memory = nullptr;
    std::size_t capacity = 0;
    std::size_t offset;

    ScratchArena() {
        static std::atomic<std::size_t> arenas{0};
        // 2 * 9 + 1 odd multiples at most: 19 * 192 = 3648 B, inside one page.
        offset = (2 * (arenas.fetch_add(1, std::memory_order_relaxed) % 10) + 1) * 192;
    }
    ~ScratchArena() { std::free(memory); }
};

}  // namespace

int num_threads() {
    int threads = chosen_threads.load(std::memory_order_relaxed);
    if (threads == 0) {
        int expected = 0;
        threads = default_threads();
        if (!chosen_threads.compare_exchange_strong(expected, threads)) threads = expected;
    }
    return threads;
}

void set_num_threads(int threads) {
    if (threads < 1 || threads > kMaxThreads) {
        throw std::invalid_argument("the number of threads must be between 1 and " +
                                    std::to_string(kMaxThreads) + ", not " +
                                    std::to_string(threads));
    }
    chosen_threads.store(threads, std::memory_order_relaxed);
}

void* thread_scratch(std::size_t bytes) {
    thread_local ScratchArena arena;
    if (bytes > kMaxThreadScratch) {
        throw std::length_error("a thread's scratch memory is limited to " +
                                std::to_string(kMaxThreadScratch) + " bytes, asked for " +
                                std::to_string(bytes));
    }
    if (bytes > arena.capacity || !arena.memory) {
        constexpr std::size_t kPage = 4096;
        const std::size_t size = (bytes + arena.offset + kPage - 1) / kPage * kPage;
        std::free(arena.memory);
        arena.capacity = 0;
        arena.memory = static_cast<std::byte*>(std::aligned_alloc(kPage, size));
        if (!arena.memory) throw std::bad_alloc();
        arena.capacity = size - arena.offset;
    }
    return arena.memory + arena.offset;
}

void run_tasks(std::int64_t tasks, int threads, FloatMode mode, TaskFunction function, void* body) {
    if (tasks <= 0) return;
    if (tasks == 1 || threads <= 1 || inside_parallel) {
        FloatModeScope scope(mode);
        for (std::int64_t task = 0; task < tasks; ++task) function(body, task, 0);
        return;
    }
    std::atomic<std::int64_t> next{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto work = [&](int worker) {
        FloatModeScope scope(mode);
        inside_parallel = true;
        try {
            for (std::int64_t task; (task = next.fetch_add(1)) < tasks;) function(body, task, worker);
        } catch (...) {
            next.store(tasks);
            std::lock_guard<std::mutex> lock(error_mutex);
            if (!error) error = std::current_exception();
        }
        inside_parallel = false;
    };
    const int others = static_cast<int>(std::min<std::int64_t>({threads, tasks, kMaxThreads})) - 1;
    std::vector<std::thread> workers;
    for (int i = 0; i < others; ++i) workers.emplace_back(work, i + 1);
    work(0);
    for (std::thread& worker : workers) worker.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace fastconv

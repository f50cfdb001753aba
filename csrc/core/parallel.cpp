// The number of threads, scratch memory and the entry to the thread pool; see parallel.h.
#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#include "core/cpu_budget.h"
#include "core/thread_pool.h"
#include "core/workspace.h"

namespace fastconv {
namespace {

std::atomic<int> chosen_threads{0};

int checked_threads(long long threads, const std::string& what) {
    if (threads >= 1 && threads <= kMaxThreads) return static_cast<int>(threads);
    throw std::invalid_argument(what + " must be between 1 and " + std::to_string(kMaxThreads) +
                                ", not " + std::to_string(threads));
}

// FASTCONV_NUM_THREADS is an order and is obeyed even beyond the CPUs there are; OMP_NUM_THREADS is
// what a user says to all libraries of a process and lowers our number only.
int default_threads() {
    if (const char* text = std::getenv("FASTCONV_NUM_THREADS"); text && *text) {
        char* end = nullptr;
        const long long value = std::strtoll(text, &end, 10);
        if (end == text || *end != '\0') {
            throw std::invalid_argument("environment variable FASTCONV_NUM_THREADS: '" +
                                        std::string(text) + "' is not a number of threads");
        }
        return checked_threads(value, "environment variable FASTCONV_NUM_THREADS:"
                                      " the number of threads");
    }
    int threads = available_cpus();
    if (const char* text = std::getenv("OMP_NUM_THREADS")) {
        const long value = std::strtol(text, nullptr, 10);  // "4" or "4,2": the outermost level
        if (value >= 1 && value < threads) threads = static_cast<int>(value);
    }
    return std::min(threads, kMaxThreads);
}

struct ScratchArena {
    std::byte* memory = nullptr;
    std::size_t capacity = 0;
    std::size_t offset;

    ScratchArena() {
        static std::atomic<std::size_t> arenas{0};
        // The largest odd multiple is 19 * 192 = 3648 B: inside one page.
        offset = (2 * (arenas.fetch_add(1, std::memory_order_relaxed) % 10) + 1) * 192;
    }
    ~ScratchArena() { std::free(memory); }
    ScratchArena(const ScratchArena&) = delete;
    ScratchArena& operator=(const ScratchArena&) = delete;
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
    chosen_threads.store(checked_threads(threads, "the number of threads"),
                         std::memory_order_relaxed);
}

void* thread_scratch(std::size_t bytes) {
    thread_local ScratchArena arena;
    if (bytes > kMaxBlockScratch) {
        throw std::length_error("a thread's scratch memory is limited to " +
                                std::to_string(kMaxBlockScratch) + " bytes, asked for " +
                                std::to_string(bytes));
    }
    if (bytes > arena.capacity || !arena.memory) {
        constexpr std::size_t kSmallPage = 4096, kHugeFrom = std::size_t{1} << 20;
        const bool huge = bytes >= kHugeFrom;
        const std::size_t page = huge ? kHugePage : kSmallPage;
        const std::size_t size = (bytes + arena.offset + page - 1) / page * page;
        std::free(arena.memory);
        arena.capacity = 0;
        arena.memory = nullptr;  // if there is none
        arena.memory = static_cast<std::byte*>(huge ? allocate_aligned(size, kHugeFrom)
                                                    : std::aligned_alloc(page, size));
        if (!arena.memory) throw std::bad_alloc();
        arena.capacity = size - arena.offset;
    }
    return arena.memory + arena.offset;
}

void run_tasks(std::int64_t tasks, int threads, FloatMode mode, TaskFunction function, void* body) {
    if (tasks <= 0) return;
    if (tasks == 1 || threads <= 1 || InsideParallel::now()) {
        InsideParallel inside;
        FloatModeScope scope(mode);
        for (std::int64_t task = 0; task < tasks; ++task) function(body, task, 0);
        return;
    }
    Job job(function, body, tasks, mode, std::min(threads, kMaxThreads));
    ThreadPool::instance().run(job);
}

}  // namespace fastconv

#include "engine.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "memory.h"
#include "signals.h"

#define FASTCONV_PER_THREAD __thread __attribute__((tls_model("initial-exec")))
FASTCONV_PER_THREAD uint3 threadIdx;
FASTCONV_PER_THREAD uint3 blockIdx;
FASTCONV_PER_THREAD uint3 blockDim;
FASTCONV_PER_THREAD uint3 gridDim;

namespace emulation {
namespace {

constexpr std::size_t kSharedBytes = 256 * 1024, kPage = 4096;
FASTCONV_PER_THREAD Engine* running_engine;

uint3 unflatten(std::uint64_t i, uint3 shape) {
    return {static_cast<unsigned>(i % shape.x), static_cast<unsigned>(i / shape.x % shape.y),
            static_cast<unsigned>(i / shape.x / shape.y)};
}

}  // namespace

Engine::Engine() {
    void* map = mmap(nullptr, kSharedBytes + 2 * kPage, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    shared_map_ = static_cast<char*>(map);
    mprotect(shared_map_ + kPage, kSharedBytes, PROT_READ | PROT_WRITE);
}

Engine::~Engine() { munmap(shared_map_, kSharedBytes + 2 * kPage); }

Engine& Engine::of_this_thread() {
    static thread_local std::unique_ptr<Engine> engine;
    if (!engine) engine = std::make_unique<Engine>();
    return *engine;
}

Engine* Engine::running() { return running_engine; }

void Engine::read_environment() {
    const char* order = std::getenv("FASTCONV_EMULATION_ORDER");
    order_ = Order::kAscending;
    if (order && std::strcmp(order, "descending") == 0) order_ = Order::kDescending;
    if (order && std::strncmp(order, "random", 6) == 0) {
        order_ = Order::kRandom;
        const std::uint64_t seed =
            order[6] == ':' ? std::strtoull(order + 7, nullptr, 10) : std::uint64_t{0};
        random_state_ = (seed + 1) * 0x9e3779b97f4a7c15u | 1u;
    }
    const char* copies = std::getenv("FASTCONV_EMULATION_CP_ASYNC");
    delays_copies_ = !(copies && std::strcmp(copies, "immediate") == 0);
}

std::uint32_t Engine::random(std::uint32_t below) {  // xorshift64*
    random_state_ ^= random_state_ >> 12;
    random_state_ ^= random_state_ << 25;
    random_state_ ^= random_state_ >> 27;
    const auto word = static_cast<std::uint32_t>(random_state_ * 0x2545f4914f6cdd1du >> 32);
    return static_cast<std::uint32_t>(std::uint64_t{word} * below >> 32);
}

// ---- a launch and its blocks --------------------------------------------------------------------

cudaError_t Engine::run(const Launch& launch) {
    install_signal_handlers();
    read_environment();
    launch_ = &launch;
    const std::size_t count = std::size_t{launch.block.x} * launch.block.y * launch.block.z;
    threads_.resize(count);
    for (std::size_t i = 0; i < count; ++i) threads_[i].index = unflatten(i, launch.block);
    warps_.resize((count + 31) / 32);
    for (std::size_t w = 0; w < warps_.size(); ++w) {
        warps_[w] = Warp();
        warps_[w].first = static_cast<int>(w * 32);
        const std::size_t lanes = count - w * 32 < 32 ? count - w * 32 : 32;
        warps_[w].lanes = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1u;
    }
    // 1024-byte aligned, and so that the last byte is as close to the guard page as that allows.
    const std::size_t rounded = (launch.shared_bytes + 1023) / 1024 * 1024;
    shared_ = reinterpret_cast<unsigned char*>(shared_map_) + kPage + kSharedBytes - rounded;

    blockDim = launch.block;
    gridDim = launch.grid;
    error_ = cudaSuccess;
    report_.clear();
    const std::uint64_t blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    // A random order of blocks without a list of them: steps of a size coprime to their number.
    std::uint64_t block = order_ == Order::kDescending ? blocks - 1 : 0;
    std::uint64_t step = order_ == Order::kDescending ? blocks - 1 : 1;
    if (order_ == Order::kRandom && blocks > 2) {
        block = random(static_cast<std::uint32_t>(blocks < 0xffffffffu ? blocks : 0xffffffffu));
        step = blocks / 2 + random(static_cast<std::uint32_t>(blocks / 2));
        const auto coprime = [](std::uint64_t a, std::uint64_t b) {
            while (b != 0) {
                const std::uint64_t rest = a % b;
                a = b;
                b = rest;
            }
            return a == 1;
        };
        while (!coprime(step, blocks)) ++step;
        step %= blocks;
    }
    for (std::uint64_t i = 0; i < blocks; ++i) {
        if (!run_block(block)) break;
        block = (block + step) % blocks;
    }
    if (error_ == cudaSuccess) {
        const std::string damage = Memory::get().damage();
        if (!damage.empty()) {
            error_ = cudaErrorIllegalAddress;
            report_ = where(nullptr) + ": " + damage;
        }
    }
    launch_ = nullptr;
    return error_;
}

bool Engine::run_block(std::uint64_t block) {
    blockIdx = unflatten(block, launch_->grid);
    std::memset(shared_, 0xff, (launch_->shared_bytes + 1023) / 1024 * 1024);
    for (Thread& thread : threads_) {
        thread.state = Thread::State::kFresh;
        thread.group = 0;
        thread.copies.clear();
        thread.unfenced.clear();
    }
    unfenced_.assign(kSharedBytes / 16, 0);
    issued_.assign(threads_.size() / 128 + 1, {});
    for (Warp& warp : warps_) {
        warp.fenced = false;
        warp.product_group = 0;
        warp.products_issued = 0;
        warp.accumulators.clear();
        warp.products.clear();
    }
    stacks_.clear();
    done_ = 0;
    for (Warp& warp : warps_) begin_pass(warp, warp.lanes);
    ready_all_warps();
    Thread* first = next();
    running_engine = this;
    resume(*first, main_);
    running_engine = nullptr;  // the block has ended, or failed
    current_ = nullptr;
    if (fault_.signal != 0) {
        report_ = describe_fault();
        const bool misaligned = fault_.signal == SIGBUS || fault_.signal == SIGILL;
        error_ = misaligned ? cudaErrorMisalignedAddress : cudaErrorIllegalAddress;
        fault_.signal = 0;
    } else if (error_ == cudaSuccess && shared_memory_overrun()) {
        error_ = cudaErrorIllegalAddress;
        report_ = where(nullptr) + ": written beyond the end of the block's " +
                  std::to_string(launch_->shared_bytes) + " bytes of shared memory";
    }
    return error_ == cudaSuccess;
}

bool Engine::shared_memory_overrun() const {
    for (std::size_t i = launch_->shared_bytes; i % 1024 != 0; ++i) {
        if (shared_[i] != 0xff) return true;
    }
    return false;
}

// ---- threads ------------------------------------------------------------------------------------

void Engine::fiber_main() {
    Engine& engine = *running_engine;
    for (;;) {
        engine.launch_->run_thread();
        Thread& ended = *engine.current_;
        ended.state = Thread::State::kDone;
        ++engine.done_;
        Thread* next = engine.next();
        if (!next) engine.leave();
        if (next->state == Thread::State::kFresh) {  // goes on on this stack: nothing to switch
            next->stack = ended.stack;
            next->state = Thread::State::kRunning;
            engine.current_ = next;
            threadIdx = next->index;
            continue;
        }
        engine.stacks_.give_back(ended.stack);
        engine.resume(*next, ended.fiber);
    }
}

void Engine::resume(Thread& thread, Fiber& from) {
    if (thread.state == Thread::State::kFresh) {
        thread.stack = stacks_.take();
        prepare_fiber(thread.fiber, stacks_.begin(thread.stack), stacks_.end(thread.stack),
                      fiber_main);
    }
    thread.state = Thread::State::kRunning;
    current_ = &thread;
    threadIdx = thread.index;
    switch_fiber(from, thread.fiber);
}

void Engine::suspend() {
    Thread& self = *current_;
    Thread* next = this->next();
    if (next == &self) {
        self.state = Thread::State::kRunning;
        return;
    }
    resume(*next, self.fiber);
}

void Engine::leave() {
    Fiber abandoned;
    switch_fiber(abandoned, main_);
    std::abort();
}

void Engine::meet(const Collective& collective, void* operands, unsigned mask, const char* file,
                  int line) {
    Thread& self = *current_;
    self.state = Thread::State::kAtWarp;
    self.collective = &collective;
    self.operands = operands;
    self.mask = mask;
    self.file = file;
    self.line = line;
    suspend();
}

int Engine::meet_block(const char* name, bool predicate, const char* file, int line) {
    Thread& self = *current_;
    self.state = Thread::State::kAtBlock;
    self.barrier = name;
    self.predicate = predicate;
    self.file = file;
    self.line = line;
    suspend();
    return barrier_count_;
}

void meet(const Collective& collective, void* operands, unsigned mask, const char* file, int line) {
    running_engine->meet(collective, operands, mask, file, line);
}
int meet_block(const char* name, bool predicate, const char* file, int line) {
    return running_engine->meet_block(name, predicate, file, line);
}
unsigned lane() { return running_engine->lane(); }
unsigned char* block_shared_memory() { return running_engine->shared_memory(); }
void fail_thread(const char* what, const char* file, int line) {
    running_engine->fail(cudaErrorLaunchFailure,
                         std::string(what) + " at " + file + ":" + std::to_string(line));
}

}  // namespace emulation

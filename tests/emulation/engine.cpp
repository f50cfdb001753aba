#include "engine.h"

#include <cstdlib>
#include <cstring>

#define FASTCONV_PER_THREAD __thread __attribute__((tls_model("initial-exec")))
FASTCONV_PER_THREAD uint3 threadIdx;
FASTCONV_PER_THREAD uint3 blockIdx;
FASTCONV_PER_THREAD uint3 blockDim;
FASTCONV_PER_THREAD uint3 gridDim;

namespace emulation {
namespace {

FASTCONV_PER_THREAD Engine* running_engine;

}  // namespace

Engine& Engine::of_this_thread() {
    static thread_local std::unique_ptr<Engine> engine;
    if (!engine) engine = std::make_unique<Engine>();
    return *engine;
}

Engine* Engine::running() { return running_engine; }
void Engine::set_running(Engine* engine) { running_engine = engine; }

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

void Engine::fiber_main() {
    Engine& engine = *running_engine;
    for (;;) {
        engine.launch_->run_thread();
        Thread& ended = *engine.current_;
        ended.state = Thread::State::kDone;
        ++engine.done_;
        ++engine.block_->done;
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
    return block_->barrier_count;
}

void Engine::meet_cluster(const char* file, int line) {
    Thread& self = *current_;
    self.state = Thread::State::kAtCluster;
    self.file = file;
    self.line = line;
    ++cluster_waiters_;
    suspend();
    --cluster_waiters_;
}

void Engine::await_phase(std::uint32_t barrier, bool parity, const char* file, int line) {
    PhaseBarrier& awaited = block_->phase_barriers[barrier];
    if ((awaited.phase & 1u) != parity) return;
    Thread& self = *current_;
    self.state = Thread::State::kAtPhase;
    self.awaited = barrier;
    self.awaited_phase = awaited.phase;
    self.file = file;
    self.line = line;
    ++awaited.waiters;
    ++phase_waiters_;
    suspend();
    --phase_waiters_;
    --block_->phase_barriers[barrier].late;
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

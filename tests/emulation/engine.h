// Runs a kernel: its blocks one after another on the calling operating system thread, a block's
// threads as fibers in an order that tests choose.
//
// A thread runs until it waits (meet, meet_block) or ends. A pass runs a warp's lanes once each; at
// its end collectives that all their lanes have reached are completed and the next pass begins. A
// warp whose lanes all wait at the block's barrier rests until all warps do. If nothing can go on,
// the launch fails with a report of who waits where.
//
// Orders (FASTCONV_EMULATION_ORDER, read at every launch): `ascending` and `descending` run one
// warp as far as it gets, then the next; `random:SEED` draws lanes anew for every pass and another
// warp after every pass. Blocks follow the same order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "include/emulation/api.h"
#include "include/emulation/collective.h"
#include "include/cuda/ptx_sm90.cuh"

namespace emulation {

struct AsyncCopy {
    void* shared;
    const void* global;
    int bytes;
    bool valid;
    int group;
};

struct Thread {
    enum class State : std::uint8_t { kFresh, kRunning, kAtWarp, kAtBlock, kDone };

    Fiber fiber;
    uint3 index{};
    State state = State::kFresh;
    bool predicate = false;
    int stack = -1;
    unsigned mask = 0;
    int line = 0;
    const char* file = nullptr;
    const Collective* collective = nullptr;
    void* operands = nullptr;
    const char* barrier = nullptr;
    int group = 0;  // of cp.async, the open one
    std::vector<AsyncCopy> copies;
    std::vector<std::uint32_t> unfenced;  // chunks of 16 bytes copied since the last proxy fence
};

/// Registers that wgmma adds to, by what they will hold when it is done: until then they are NaN.
struct Accumulators {
    float* registers[32];
    int per_lane = 0, pending = 0;  // products
    std::vector<float> sums;        // (16, columns) of the warp
};

struct PendingProduct {
    WarpgroupProduct what;
    int group;
    std::vector<std::uint16_t> operands;  // as they were at the issue
};

struct Warp {
    int first = 0;       // its lane 0 among the block's threads
    unsigned lanes = 0;  // that exist, a bit each
    unsigned pass = 0;   // those that take part in this pass
    int count = 0, position = 0;
    std::uint8_t order[32] = {};

    bool fenced = false;  // wgmma.fence since registers were last handed back
    int product_group = 0;
    std::size_t products_issued = 0;
    std::vector<Accumulators> accumulators;  // in flight
    std::vector<PendingProduct> products;
};

class Engine {
public:
    Engine();
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    static Engine& of_this_thread();
    /// The engine that runs device code in this operating system thread now, or null.
    static Engine* running();

    cudaError_t run(const Launch& launch);
    const std::string& report() const { return report_; }

    // For device code:
    void meet(const Collective& collective, void* operands, unsigned mask, const char* file,
              int line);
    int meet_block(const char* name, bool predicate, const char* file, int line);
    Thread& thread() { return *current_; }
    /// Whose lanes run, or whose collective is being completed.
    Warp& warp() { return *warp_; }
    std::size_t block_threads() const { return threads_.size(); }
    /// What wgmma the warpgroup of a warp has issued in this block so far.
    std::vector<WarpgroupProduct>& issued_by_warpgroup(const Warp& warp) {
        return issued_[static_cast<std::size_t>(warp.first) / 128];
    }
    /// Of every 16 bytes of shared memory: whether wgmma cannot see yet what cp.async wrote there.
    std::vector<std::uint8_t>& unfenced() { return unfenced_; }
    unsigned lane() const { return static_cast<unsigned>(current_ - threads_.data()) & 31u; }
    unsigned char* shared_memory() { return shared_; }
    std::size_t shared_bytes() const { return launch_->shared_bytes; }
    bool delays_copies() const { return delays_copies_; }

    /// Gives up the launch: `what` and where it happened become the report.
    [[noreturn]] void fail(cudaError_t error, const std::string& what);
    /// As fail, from a signal handler: writes down no more than its arguments.
    [[noreturn]] void fault(int signal, int code, const void* address, const void* instruction);

private:
    enum class Order : std::uint8_t { kAscending, kDescending, kRandom };

    void read_environment();
    void open_shared_memory();
    bool run_block(std::uint64_t block);
    static void fiber_main();
    void suspend();
    Thread* next() {
        Warp& warp = *warp_;
        if (warp.position < warp.count) return &threads_[warp.first + warp.order[warp.position++]];
        return next_pass();
    }
    Thread* next_pass();
    bool settle(Warp& warp);
    void begin_pass(Warp& warp, unsigned lanes);
    void ready_all_warps();
    void release_barrier();
    void resume(Thread& thread, Fiber& from);
    std::uint32_t random(std::uint32_t below);
    [[noreturn]] void fail_stuck(const std::string& why, const Warp* warp);
    [[noreturn]] void leave();
    std::string describe_threads(const Warp* warp) const;
    std::string where(const Thread* thread) const;
    std::string describe_fault() const;
    bool shared_memory_overrun() const;

    const Launch* launch_ = nullptr;
    Stacks stacks_;
    std::vector<Thread> threads_;
    std::vector<Warp> warps_;
    std::vector<std::vector<WarpgroupProduct>> issued_;
    std::vector<std::uint8_t> unfenced_;
    std::vector<Warp*> ready_;  // the last one runs
    Thread* current_ = nullptr;
    Warp* warp_ = nullptr;
    int done_ = 0;
    int barrier_count_ = 0;
    Fiber main_;

    Order order_ = Order::kAscending;
    std::uint64_t random_state_ = 0;
    bool delays_copies_ = true;

    char* shared_map_ = nullptr;
    unsigned char* shared_ = nullptr;

    cudaError_t error_ = cudaSuccess;
    std::string report_;
    struct {
        int signal, code;
        const void* address;
        const void* instruction;
    } fault_{};
    const Thread* fault_thread_ = nullptr;
};

}  // namespace emulation

// Runs a kernel: its clusters (a launch without them has clusters of one block) one after another
// on the calling operating system thread, the threads of a cluster's blocks as fibers in an order
// that tests choose.
//
// A thread runs until it waits (meet, meet_block, meet_cluster, await_phase) or ends. A pass runs a
// warp's lanes once each; at its end collectives that all their lanes have reached are completed,
// lanes whose phase is over are found, and the next pass begins. A warp none of whose lanes can run
// rests. Phases that are over wake their waiters at the end of the pass that ended them. Once all
// warps rest, barriers that everyone has reached are released; if that is nobody, copies by TMA
// arrive one after another until somebody can go on. Else the launch fails with a report of who
// waits where.
//
// Orders (FASTCONV_EMULATION_ORDER, read at every launch): `ascending` and `descending` run one
// warp as far as it gets, then the next; `random:SEED` draws lanes anew for every pass and another
// warp after every pass, lets waiters wait longer and copies arrive earlier. Clusters follow the
// same order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bulk_copies.h"
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
    enum class State : std::uint8_t {
        kFresh, kRunning, kAtWarp, kAtBlock, kAtCluster, kAtPhase, kDone,
    };

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
    std::uint32_t awaited = 0, awaited_phase = 0;  // which of the block's phase barriers
    int group = 0;  // of cp.async, the open one
    std::vector<AsyncCopy> copies;
    int store_group = 0;  // of copies out of shared memory, the open one
    std::vector<std::uint32_t> unfenced;  // chunks of 16 bytes written since the last proxy fence
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

struct RegisterChange {
    int registers;
    bool gives;
    const char* file;
    int line;
};

struct Warp {
    int first = 0;       // its lane 0 among the cluster's threads
    int number = 0;      // in its block
    int block = 0;       // in its cluster
    bool rests = false;
    unsigned lanes = 0;  // that exist, a bit each
    unsigned pass = 0;   // those that take part in this pass
    int count = 0, position = 0;
    std::uint8_t order[32] = {};

    bool fenced = false;  // wgmma.fence since registers were last handed back
    int product_group = 0;
    std::size_t products_issued = 0;
    std::vector<Accumulators> accumulators;  // in flight
    std::vector<PendingProduct> products;
    std::size_t register_changes = 0;
};

/// What a block's four warps do together, in order: each must do the same.
struct Warpgroup {
    std::vector<WarpgroupProduct> products;  // issued
    std::vector<RegisterChange> register_changes;
};

/// A block of the cluster that runs.
struct Block {
    uint3 index{};
    int rank = 0;
    unsigned char* shared = nullptr;
    int done = 0;           // threads
    int barrier_count = 0;  // what the last __syncthreads_count returns
    bool released = false;  // from it, now
    int epoch = 0;          // barriers of all its threads so far
    std::vector<Warpgroup> warpgroups;
    std::vector<std::uint8_t> unfenced;  // chunks of 16 bytes that wgmma cannot see yet
    std::vector<PhaseBarrier> phase_barriers;
    std::vector<BulkCopy> copies;  // in flight, as they were issued
    std::vector<BulkStore> stores;
};

struct BarrierUse;
struct CopyOperands;
/// What copies by TMA in both directions have in common; refuses what none may be.
BulkCopy make_copy(const CopyOperands& operands, bool out, const BarrierUse& use);
[[noreturn]] void refuse_copy(const BarrierUse& use, cudaError_t error, const std::string& why);

class Engine {
public:
    Engine() = default;
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
    void meet_cluster(const char* file, int line);
    /// Until that of the block's phase barriers is in another phase than the one of this parity.
    void await_phase(std::uint32_t barrier, bool parity, const char* file, int line);
    Thread& thread() { return *current_; }
    /// Whose lanes run, or whose collective is being completed.
    Warp& warp() { return *warp_; }
    /// Whose threads run.
    Block& block() { return *block_; }
    const std::vector<Block>& cluster() const { return blocks_; }
    std::size_t block_threads() const { return block_threads_; }
    Warpgroup& warpgroup(const Warp& warp) {
        return blocks_[static_cast<std::size_t>(warp.block)]
            .warpgroups[static_cast<std::size_t>(warp.number) / 4];
    }
    Thread& thread_of_lane(int lane) {
        return threads_[static_cast<std::size_t>(warp_->first + lane)];
    }
    unsigned lane() const {
        return static_cast<unsigned>(current_ - threads_.data() - warp_->first);
    }
    unsigned char* shared_memory() { return block_->shared; }
    std::size_t shared_bytes() const { return launch_->shared_bytes; }
    bool delays_copies() const { return delays_copies_; }
    void note_ended_phase() { phase_ended_ = true; }
    /// Takes a copy out of its block's list and performs it.
    void deliver(Block& block, std::size_t copy);
    /// Of all copies out of shared memory so far: to global memory.
    void write_stores();

    /// Gives up the launch: `what` and where it happened become the report.
    [[noreturn]] void fail(cudaError_t error, const std::string& what);
    /// As fail, from a signal handler: writes down no more than its arguments.
    [[noreturn]] void fault(int signal, int code, const void* address, const void* instruction);

private:
    enum class Order : std::uint8_t { kAscending, kDescending, kRandom };

    static void set_running(Engine* engine);
    void read_environment();
    void prepare(const Launch& launch);
    bool run_cluster(std::uint64_t cluster);
    void begin_blocks(std::uint64_t cluster);
    void judge_ended_block(Block& block);
    static void fiber_main();
    void suspend();
    Thread* next() {
        Warp& warp = *warp_;
        if (warp.position < warp.count) return &threads_[warp.first + warp.order[warp.position++]];
        return next_pass();
    }
    Thread* next_pass();
    bool settle(Warp& warp);
    bool is_over(const Thread& thread, const Block& block) const {
        return block.phase_barriers[thread.awaited].phase != thread.awaited_phase;
    }
    void begin_pass(Warp& warp, unsigned lanes);
    void switch_to(Warp& warp);
    void enter(Block& block);
    bool wake();
    void wake_warps(bool cluster_released);
    unsigned waking_lanes(const Warp& warp, bool cluster_released) const;
    bool reached_by_all(Block& block);
    bool cluster_reached_by_all();
    void order_ready_warps(std::size_t begin);
    void interrupt();
    bool deliver_awaited();
    std::string why_stuck() const;
    void resume(Thread& thread, Fiber& from);
    std::uint32_t random(std::uint32_t below);
    const Thread* threads_of(const Block& block) const {
        return &threads_[static_cast<std::size_t>(block.rank) * block_threads_];
    }
    [[noreturn]] void fail_stuck(const std::string& why, const Warp* warp);
    [[noreturn]] void leave();
    void note_failure(cudaError_t error, const std::string& what);
    std::string describe_threads(const Warp* warp) const;
    std::string describe_wait(const Thread& thread, const Block& block) const;
    std::string where(const Thread* thread) const;
    std::string describe_fault() const;
    bool shared_memory_overrun(const Block& block) const;
    std::string misused_registers(const Block& block) const;

    const Launch* launch_ = nullptr;
    Stacks stacks_;
    std::size_t block_threads_ = 0;
    std::vector<Thread> threads_;  // block after block
    std::vector<Warp> warps_;      // likewise
    std::vector<Block> blocks_;
    std::vector<Warp*> ready_;  // the last one runs
    Thread* current_ = nullptr;
    Warp* warp_ = nullptr;
    Block* block_ = nullptr;
    int done_ = 0;
    int phase_waiters_ = 0, cluster_waiters_ = 0;
    bool phase_ended_ = false;  // that someone waited for, and warps have not been woken since
    Fiber main_;

    Order order_ = Order::kAscending;
    std::uint64_t random_state_ = 0;
    bool delays_copies_ = true;

    std::vector<char*> shared_maps_;  // of as many blocks as a cluster ever had

    cudaError_t error_ = cudaSuccess;
    std::string report_;
    struct {
        int signal, code;
        const void* address;
        const void* instruction;
    } fault_{};
    const Thread* fault_thread_ = nullptr;
    std::optional<BulkCopy> delivered_;  // that is performed now
};

}  // namespace emulation

// The engine's launches: clusters of blocks one after another, and what is looked at when they have
// ended.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <numeric>

#include "engine.h"
#include "memory.h"
#include "signals.h"

namespace emulation {
namespace {

constexpr std::size_t kSharedBytes = 256 * 1024, kPage = 4096;

uint3 unflatten(std::uint64_t i, uint3 shape) {
    return {static_cast<unsigned>(i % shape.x), static_cast<unsigned>(i / shape.x % shape.y),
            static_cast<unsigned>(i / shape.x / shape.y)};
}

}  // namespace

Engine::~Engine() {
    for (char* map : shared_maps_) munmap(map, kSharedBytes + 2 * kPage);
}

void Engine::prepare(const Launch& launch) {
    launch_ = &launch;
    blockDim = launch.block;
    gridDim = launch.grid;
    block_threads_ = std::size_t{launch.block.x} * launch.block.y * launch.block.z;
    const std::size_t block_warps = (block_threads_ + 31) / 32;
    blocks_.resize(std::size_t{launch.cluster.x} * launch.cluster.y * launch.cluster.z);
    threads_.resize(blocks_.size() * block_threads_);
    warps_.assign(blocks_.size() * block_warps, Warp());
    // 1024-byte aligned, and so that the last byte is as close to the guard page as that allows.
    const std::size_t rounded = (launch.shared_bytes + 1023) / 1024 * 1024;
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
        if (b == shared_maps_.size()) {
            void* map = mmap(nullptr, kSharedBytes + 2 * kPage, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (map == MAP_FAILED) throw std::bad_alloc();
            shared_maps_.push_back(static_cast<char*>(map));
            mprotect(shared_maps_[b] + kPage, kSharedBytes, PROT_READ | PROT_WRITE);
        }
        blocks_[b].rank = static_cast<int>(b);
        blocks_[b].shared = reinterpret_cast<unsigned char*>(shared_maps_[b]) + kPage +
                            kSharedBytes - rounded;
        for (std::size_t i = 0; i < block_threads_; ++i)
            threads_[b * block_threads_ + i].index = unflatten(i, launch.block);
        for (std::size_t w = 0; w < block_warps; ++w) {
            Warp& warp = warps_[b * block_warps + w];
            warp.first = static_cast<int>(b * block_threads_ + w * 32);
            warp.number = static_cast<int>(w);
            warp.block = static_cast<int>(b);
            const std::size_t left = block_threads_ - w * 32;
            warp.lanes = left >= 32 ? 0xffffffffu : (1u << left) - 1u;
        }
    }
}

cudaError_t Engine::run(const Launch& launch) {
    install_signal_handlers();
    read_environment();
    prepare(launch);
    error_ = cudaSuccess;
    report_.clear();
    const std::uint64_t clusters =
        std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z / blocks_.size();
    // A random order of clusters without a list of them: steps of a size coprime to their number.
    std::uint64_t cluster = order_ == Order::kDescending ? clusters - 1 : 0;
    std::uint64_t step = order_ == Order::kDescending ? clusters - 1 : 1;
    if (order_ == Order::kRandom && clusters > 2) {
        constexpr std::uint64_t kMost = 0xffffffffu;
        cluster = random(static_cast<std::uint32_t>(std::min(clusters, kMost)));
        step = clusters / 2 + random(static_cast<std::uint32_t>(clusters / 2));
        while (std::gcd(step, clusters) != 1) ++step;
        step %= clusters;
    }
    for (std::uint64_t i = 0; i < clusters; ++i) {
        if (!run_cluster(cluster)) break;
        cluster = (cluster + step) % clusters;
    }
    if (error_ == cudaSuccess) {
        const std::string damage = Memory::get().damage();
        if (!damage.empty()) note_failure(cudaErrorIllegalAddress, damage);
    }
    launch_ = nullptr;
    return error_;
}

void Engine::begin_blocks(std::uint64_t cluster) {
    const uint3 shape = launch_->cluster, grid = launch_->grid;
    const uint3 at = unflatten(cluster, {grid.x / shape.x, grid.y / shape.y, grid.z / shape.z});
    for (Block& block : blocks_) {
        const uint3 in = unflatten(static_cast<std::uint64_t>(block.rank), shape);
        block.index = {at.x * shape.x + in.x, at.y * shape.y + in.y, at.z * shape.z + in.z};
        std::memset(block.shared, 0xff, (launch_->shared_bytes + 1023) / 1024 * 1024);
        block.done = 0;
        block.epoch = 0;
        block.warpgroups.assign(block_threads_ / 128 + 1, {});
        block.unfenced.assign(kSharedBytes / 16, 0);
        block.phase_barriers.clear();
        block.copies.clear();
        block.stores.clear();
    }
    for (Thread& thread : threads_) {
        thread.state = Thread::State::kFresh;
        thread.group = thread.store_group = 0;
        thread.copies.clear();
        thread.unfenced.clear();
    }
    for (Warp& warp : warps_) {
        warp.fenced = false;
        warp.product_group = 0;
        warp.products_issued = 0;
        warp.accumulators.clear();
        warp.products.clear();
        warp.register_changes = 0;
        warp.rests = false;
        begin_pass(warp, warp.lanes);
        ready_.push_back(&warp);
    }
}

bool Engine::run_cluster(std::uint64_t cluster) {
    stacks_.clear();
    ready_.clear();
    done_ = phase_waiters_ = cluster_waiters_ = 0;
    phase_ended_ = false;
    delivered_.reset();
    begin_blocks(cluster);
    order_ready_warps(0);
    enter(blocks_[0]);
    switch_to(*ready_.back());
    Thread* first = next();
    set_running(this);
    resume(*first, main_);
    set_running(nullptr);  // the cluster has ended, or failed
    current_ = nullptr;
    if (fault_.signal != 0) {
        report_ = describe_fault();
        const bool misaligned = fault_.signal == SIGBUS || fault_.signal == SIGILL;
        error_ = misaligned ? cudaErrorMisalignedAddress : cudaErrorIllegalAddress;
        fault_.signal = 0;
    }
    for (Block& block : blocks_)
        if (error_ == cudaSuccess) judge_ended_block(block);
    return error_ == cudaSuccess;
}

void Engine::judge_ended_block(Block& block) {
    enter(block);
    if (shared_memory_overrun(block))
        return note_failure(cudaErrorIllegalAddress, "written beyond the end of the block's " +
                                                         std::to_string(launch_->shared_bytes) +
                                                         " bytes of shared memory");
    const BulkCopy* left = block.copies.empty() ? nullptr : &block.copies.front();
    for (const BulkStore& store : block.stores)
        if (!store.was_read) left = &store.copy;
    const std::string misused = misused_registers(block);
    if (left) {
        note_failure(cudaErrorLaunchFailure,
                     "the block has ended, and nothing waited for a copy by TMA issued at " +
                         std::string(left->file) + ":" + std::to_string(left->line));
    } else if (!misused.empty()) {
        note_failure(cudaErrorLaunchFailure, misused);
    }
}

bool Engine::shared_memory_overrun(const Block& block) const {
    for (std::size_t i = launch_->shared_bytes; i % 1024 != 0; ++i) {
        if (block.shared[i] != 0xff) return true;
    }
    return false;
}

}  // namespace emulation

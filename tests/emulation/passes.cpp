// The engine's passes: which thread runs next, when collectives and barriers are complete.
#include <algorithm>
#include <cstring>
#include <utility>

#include "engine.h"

namespace emulation {
namespace {

bool same_place(const Thread& a, const Thread& b) {
    return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

bool meets(const Thread& a, const Thread& b) {
    return a.state == b.state && a.collective == b.collective && a.mask == b.mask &&
           same_place(a, b);
}

}  // namespace

void Engine::begin_pass(Warp& warp, unsigned lanes) {
    warp.position = 0;
    if (warp.pass != lanes) {
        warp.pass = lanes;
        warp.count = 0;
        for (int i = 0; i < 32; ++i) {
            const int lane = order_ == Order::kDescending ? 31 - i : i;
            if (lanes >> lane & 1u) warp.order[warp.count++] = static_cast<std::uint8_t>(lane);
        }
    }
    if (order_ != Order::kRandom) return;
    for (int i = warp.count - 1; i > 0; --i) {
        const std::uint32_t j = random(static_cast<std::uint32_t>(i) + 1);
        const std::uint8_t lane = warp.order[i];
        warp.order[i] = warp.order[j];
        warp.order[j] = lane;
    }
}

/// Those of ready_ from `begin` on, which are in ascending order: the last one runs first.
void Engine::order_ready_warps(std::size_t begin) {
    const auto first = ready_.begin() + static_cast<std::ptrdiff_t>(begin);
    if (order_ == Order::kAscending) {
        std::reverse(first, ready_.end());
    } else if (order_ == Order::kRandom) {
        for (std::size_t i = ready_.size() - 1; i > begin; --i)
            std::swap(ready_[i],
                      ready_[begin + random(static_cast<std::uint32_t>(i - begin) + 1)]);
    }
}

void Engine::enter(Block& block) {
    block_ = &block;
    blockIdx = block.index;
}

void Engine::switch_to(Warp& warp) {
    warp_ = &warp;
    Block& block = blocks_[static_cast<std::size_t>(warp.block)];
    if (block_ != &block) enter(block);
}

/// The pass of the running warp is over. Returns null when the cluster's blocks are.
Thread* Engine::next_pass() {
    if (phase_waiters_ > 0) interrupt();
    for (;;) {
        switch_to(*ready_.back());
        Warp& warp = *warp_;
        if (warp.position < warp.count) return &threads_[warp.first + warp.order[warp.position++]];
        if (settle(warp)) {
            if (order_ == Order::kRandom && ready_.size() > 1)
                std::swap(ready_[random(static_cast<std::uint32_t>(ready_.size()))],
                          ready_.back());
        } else {
            warp.rests = true;
            ready_.pop_back();
            if (ready_.empty() && !wake()) return nullptr;
        }
    }
}

/// Whoever waited for a phase that ended in this pass goes on before the warp that ended it: what
/// is given back too early is used again at once. In a random order only now and then, and copies
/// arrive now and then.
void Engine::interrupt() {
    if (order_ == Order::kRandom) {
        if (random(8) == 0) {
            Block& block = blocks_[random(static_cast<std::uint32_t>(blocks_.size()))];
            if (!block.copies.empty())
                deliver(block, random(static_cast<std::uint32_t>(block.copies.size())));
        }
        if (random(2) == 0) return;
    }
    if (!phase_ended_) return;
    const std::size_t before = ready_.size();
    wake_warps(false);
    order_ready_warps(before);
}

/// Completes the collectives that all their lanes have reached, and finds lanes whose phase is
/// over. Returns whether lanes can run.
bool Engine::settle(Warp& warp) {
    Thread* lanes = &threads_[warp.first];
    unsigned waiting = 0, released = 0;
    bool awaits = false;
    void* operands[32];
    for (int lane = 0; lane < 32; ++lane) {
        if (!(warp.lanes >> lane & 1u)) break;
        if (lanes[lane].state == Thread::State::kAtPhase) {
            awaits = true;
            if (is_over(lanes[lane], *block_)) released |= 1u << lane;
            continue;
        }
        if (lanes[lane].state != Thread::State::kAtWarp) continue;
        waiting |= 1u << lane;
        operands[lane] = lanes[lane].operands;
    }
    for (unsigned left = waiting; left != 0;) {
        const Thread& leader = lanes[__builtin_ctz(left)];
        const unsigned wanted = leader.mask & warp.lanes;
        unsigned group = left & (0u - left);
        for (unsigned rest = left & wanted; rest != 0; rest &= rest - 1) {
            const int lane = __builtin_ctz(rest);
            if (meets(leader, lanes[lane])) group |= 1u << lane;
        }
        left &= ~group;
        if (group != wanted) continue;
        if (leader.collective->whole_warp && group != 0xffffffffu) {
            fail_stuck(std::string(leader.collective->name) + " needs all 32 lanes of a warp",
                       &warp);
        }
        if (leader.collective->complete) leader.collective->complete(operands, group);
        released |= group;
    }
    if (released != 0) {
        begin_pass(warp, released);
        return true;
    }
    if (waiting != 0 && !awaits) {
        fail_stuck("lanes of a warp wait for others that have ended, or are elsewhere", &warp);
    }
    return false;
}

// ---- when everyone rests ------------------------------------------------------------------------

/// Whether the block's threads are all at the same __syncthreads, which is then passed.
bool Engine::reached_by_all(Block& block) {
    const Thread* threads = threads_of(block);
    int count = 0;
    for (std::size_t i = 0; i < block_threads_; ++i) {
        const Thread& thread = threads[i];
        if (thread.state != Thread::State::kAtBlock || thread.barrier != threads[0].barrier ||
            !same_place(thread, threads[0]))
            return false;
        count += thread.predicate;
    }
    block.barrier_count = count;
    ++block.epoch;
    return true;
}

/// Whether the cluster's threads are all at its barrier, but for those that have ended.
bool Engine::cluster_reached_by_all() {
    for (const Thread& thread : threads_)
        if (thread.state != Thread::State::kAtCluster && thread.state != Thread::State::kDone)
            return false;
    for (const Warp& warp : warps_) {
        const Thread* first = nullptr;
        for (int lane = 0; lane < 32 && warp.lanes >> lane & 1u; ++lane) {
            const Thread& thread = threads_[static_cast<std::size_t>(warp.first + lane)];
            if (thread.state == Thread::State::kDone) continue;
            if (first && !same_place(*first, thread))
                fail_stuck("lanes of a warp are at different barriers of the cluster", &warp);
            first = &thread;
        }
    }
    for (Block& block : blocks_) ++block.epoch;
    return true;
}

unsigned Engine::waking_lanes(const Warp& warp, bool cluster_released) const {
    const Block& block = blocks_[static_cast<std::size_t>(warp.block)];
    unsigned waking = 0;
    for (int lane = 0; lane < 32 && warp.lanes >> lane & 1u; ++lane) {
        const Thread& thread = threads_[static_cast<std::size_t>(warp.first + lane)];
        const bool phase = thread.state == Thread::State::kAtPhase && is_over(thread, block);
        const bool cluster = thread.state == Thread::State::kAtCluster && cluster_released;
        if (phase || cluster) waking |= 1u << lane;
    }
    return waking;
}

/// Resting warps whose block or cluster is released, or with lanes whose phase is over.
void Engine::wake_warps(bool cluster_released) {
    phase_ended_ = false;
    for (Warp& warp : warps_) {
        if (!warp.rests) continue;
        unsigned lanes = 0;
        if (blocks_[static_cast<std::size_t>(warp.block)].released) {
            lanes = warp.lanes;
        } else if (cluster_released || phase_waiters_ > 0) {
            lanes = waking_lanes(warp, cluster_released);
        }
        if (lanes == 0) continue;
        warp.rests = false;
        begin_pass(warp, lanes);
        ready_.push_back(&warp);
    }
}

/// Makes a warp ready that rests. Returns false when all threads have ended.
bool Engine::wake() {
    if (done_ == static_cast<int>(threads_.size())) {
        write_stores();
        return false;
    }
    for (;;) {
        for (Block& block : blocks_) block.released = reached_by_all(block);
        wake_warps(cluster_waiters_ > 0 && cluster_reached_by_all());
        for (Block& block : blocks_) block.released = false;
        if (!ready_.empty()) break;
        if (!deliver_awaited()) fail_stuck(why_stuck(), nullptr);
    }
    order_ready_warps(0);
    return true;
}

/// One copy to a barrier that a thread waits for: the first in the order that was issued, the last,
/// or any. False if there is none.
bool Engine::deliver_awaited() {
    std::vector<std::pair<Block*, std::size_t>> found;
    for (Block& block : blocks_)
        for (std::size_t i = 0; i < block.copies.size(); ++i)
            if (block.phase_barriers[block.copies[i].barrier].waiters > 0)
                found.emplace_back(&block, i);
    if (found.empty()) return false;
    std::size_t chosen = order_ == Order::kDescending ? found.size() - 1 : 0;
    if (order_ == Order::kRandom) chosen = random(static_cast<std::uint32_t>(found.size()));
    deliver(*found[chosen].first, found[chosen].second);
    return true;
}

std::string Engine::why_stuck() const {
    for (const Block& block : blocks_) {
        const Thread* threads = threads_of(block);
        std::size_t at_barrier = 0;
        for (std::size_t i = 0; i < block_threads_; ++i)
            at_barrier += threads[i].state == Thread::State::kAtBlock;
        if (at_barrier == 0 || at_barrier + static_cast<std::size_t>(block.done) != block_threads_)
            continue;
        return block.done > 0 ? "threads wait at a barrier that others, ended, never reach"
                              : "threads wait at different barriers";
    }
    return "no thread can go on";
}

}  // namespace emulation

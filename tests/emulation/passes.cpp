// The engine's passes: which thread runs next, when collectives and barriers are complete.
#include <cstring>

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

void Engine::ready_all_warps() {
    ready_.clear();
    for (Warp& warp : warps_) ready_.push_back(&warp);
    if (order_ == Order::kAscending) {
        for (std::size_t i = 0, j = ready_.size() - 1; i < j; ++i, --j) {
            Warp* warp = ready_[i];
            ready_[i] = ready_[j];
            ready_[j] = warp;
        }
    } else if (order_ == Order::kRandom) {
        for (std::size_t i = ready_.size() - 1; i > 0; --i) {
            const std::uint32_t j = random(static_cast<std::uint32_t>(i) + 1);
            Warp* warp = ready_[i];
            ready_[i] = ready_[j];
            ready_[j] = warp;
        }
    }
    warp_ = ready_.back();
}

/// The pass of the running warp is over. Returns null when the block is.
Thread* Engine::next_pass() {
    if (settle(*warp_)) {
        if (order_ == Order::kRandom && ready_.size() > 1) {
            const std::size_t other = random(static_cast<std::uint32_t>(ready_.size()));
            Warp* warp = ready_[other];
            ready_[other] = ready_.back();
            ready_.back() = warp;
        }
    } else {
        ready_.pop_back();
        if (ready_.empty()) {
            if (done_ == static_cast<int>(threads_.size())) return nullptr;
            release_barrier();
        }
    }
    warp_ = ready_.back();
    return &threads_[warp_->first + warp_->order[warp_->position++]];
}

/// Completes the collectives that all their lanes have reached. Returns whether lanes can run.
bool Engine::settle(Warp& warp) {
    Thread* lanes = &threads_[warp.first];
    unsigned waiting = 0;
    void* operands[32];
    for (int lane = 0; lane < 32; ++lane) {
        if (!(warp.lanes >> lane & 1u)) break;
        if (lanes[lane].state != Thread::State::kAtWarp) continue;
        waiting |= 1u << lane;
        operands[lane] = lanes[lane].operands;
    }
    unsigned released = 0;
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
    if (waiting != 0) {
        fail_stuck("lanes of a warp wait for others that have ended, or are elsewhere", &warp);
    }
    return false;
}

void Engine::release_barrier() {
    if (done_ > 0) fail_stuck("threads wait at a barrier that others, ended, never reach", nullptr);
    barrier_count_ = 0;
    for (Thread& thread : threads_) {
        if (!same_place(thread, threads_[0]) || thread.barrier != threads_[0].barrier) {
            fail_stuck("threads wait at different barriers", nullptr);
        }
        barrier_count_ += thread.predicate;
    }
    for (Warp& warp : warps_) begin_pass(warp, warp.lanes);
    ready_all_warps();
}

}  // namespace emulation

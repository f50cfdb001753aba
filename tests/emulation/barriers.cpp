// Barriers that count arrivals and bytes (mbarrier), as PTX specifies them (9.7.13.15): a phase is
// over once neither arrivals nor bytes are missing. Beyond that it is an error here
//
//   to use one that another thread initialised, before that thread's fence_barrier_init or, from
//   another warp, before a barrier of the block since then
//   if more arrive than it was initialised with, or more bytes than were expected
//   if a phase ends while copies that were issued in it are in flight: too few bytes were expected
//   if a phase ends before a thread that waits for the one before went on: it could miss that
#include <cstring>

#include "engine.h"
#include "include/cuda/ptx_tma.cuh"

namespace emulation {
namespace {

constexpr std::uint64_t kMagic = 0x62617272u;  // the high half of a barrier's word
constexpr std::int64_t kMostBytes = (1 << 20) - 1;

std::string place(const char* file, int line) {
    return std::string(" at ") + file + ":" + std::to_string(line);
}

[[noreturn]] void refuse(const BarrierUse& use, const std::string& why) {
    Engine::running()->fail(cudaErrorLaunchFailure,
                            std::string(use.name) + ": " + why + place(use.file, use.line));
}

std::uint32_t offset_of(const std::uint64_t* word, const BarrierUse& use) {
    Engine& engine = *Engine::running();
    const auto offset = reinterpret_cast<std::uintptr_t>(word) -
                        reinterpret_cast<std::uintptr_t>(engine.shared_memory());
    if (offset % 8 != 0 || engine.shared_bytes() < 8 || offset > engine.shared_bytes() - 8)
        refuse(use, "the barrier's address must be a multiple of 8 in the " +
                        std::to_string(engine.shared_bytes()) +
                        " bytes of the block's shared memory");
    return static_cast<std::uint32_t>(offset);
}

std::string named(const PhaseBarrier& barrier) {
    return "the barrier at offset " + std::to_string(barrier.offset) + " of shared memory";
}

void must_be_known(const PhaseBarrier& barrier, const BarrierUse& use) {
    Engine& engine = *Engine::running();
    const Thread& self = engine.thread();
    if (barrier.initialiser == &self && !use.by_copy) return;
    if (!barrier.fenced)
        refuse(use, named(barrier) + " is used before fence_barrier_init by the thread that "
                                     "initialised it");
    const Thread* first = &self - engine.lane();
    const bool same_warp = barrier.initialiser >= first && barrier.initialiser < first + 32;
    if (!same_warp && barrier.epoch == engine.block().epoch)
        refuse(use, named(barrier) + " was initialised by another warp, with no barrier of the "
                                     "block since");
}

/// After an arrival or bytes: is the phase over?
void advance(PhaseBarrier& barrier, const BarrierUse& use) {
    if (barrier.bytes > kMostBytes || barrier.bytes < -kMostBytes)
        refuse(use, named(barrier) + " cannot count " + std::to_string(barrier.bytes) + " bytes");
    if (barrier.missing > 0) return;
    if (barrier.bytes < 0)
        refuse(use, std::to_string(-barrier.bytes) + " bytes more than " + named(barrier) +
                        " was told to expect in phase " + std::to_string(barrier.phase));
    if (barrier.bytes > 0) return;
    const Block& block = Engine::running()->block();
    const std::string phase =
        "phase " + std::to_string(barrier.phase) + " of " + named(barrier) + " is over ";
    if (barrier.late > 0)
        refuse(use, phase + "before " + std::to_string(barrier.late) +
                        " threads that wait for the phase before went on: they may miss it");
    for (const BulkCopy& copy : block.copies)
        if (&block.phase_barriers[copy.barrier] == &barrier && copy.phase == barrier.phase)
            refuse(use, phase + "while a copy to it, issued" + place(copy.file, copy.line) +
                            ", is in flight: it was told to expect too few bytes");
    ++barrier.phase;
    barrier.missing = barrier.arrivals;
    barrier.late = barrier.waiters;
    if (barrier.waiters > 0) Engine::running()->note_ended_phase();
    barrier.waiters = 0;
}

}  // namespace

std::uint32_t find_barrier(const std::uint64_t* word, const BarrierUse& use) {
    Block& block = Engine::running()->block();
    const std::uint32_t offset = offset_of(word, use);
    std::uint64_t held;
    std::memcpy(&held, word, 8);
    const auto index = static_cast<std::uint32_t>(held);
    if (held >> 32 != kMagic || index >= block.phase_barriers.size() ||
        block.phase_barriers[index].offset != offset) {
        for (const PhaseBarrier& barrier : block.phase_barriers)
            if (barrier.offset == offset) refuse(use, named(barrier) + " has been overwritten");
        refuse(use, "no barrier has been initialised at offset " + std::to_string(offset) +
                        " of shared memory");
    }
    must_be_known(block.phase_barriers[index], use);
    return index;
}

void count_bytes(std::uint32_t index, std::int64_t bytes, const BarrierUse& use) {
    PhaseBarrier& barrier = Engine::running()->block().phase_barriers[index];
    barrier.bytes -= bytes;
    advance(barrier, use);
}

void init_barrier(std::uint64_t* word, int arrivals, const BarrierUse& use) {
    Engine& engine = *Engine::running();
    std::vector<PhaseBarrier>& known = engine.block().phase_barriers;
    const std::uint32_t offset = offset_of(word, use);
    if (arrivals < 1 || arrivals > kMostBytes)
        refuse(use, std::to_string(arrivals) + " arrivals, not 1 .. 1048575");
    for (const PhaseBarrier& barrier : known)
        if (barrier.offset == offset) refuse(use, named(barrier) + " was initialised before");
    const std::uint64_t held = kMagic << 32 | known.size();
    std::memcpy(word, &held, 8);
    PhaseBarrier made{};
    made.offset = offset;
    made.arrivals = made.missing = arrivals;
    made.initialiser = &engine.thread();
    known.push_back(made);
}

void fence_barriers() {
    Engine& engine = *Engine::running();
    for (PhaseBarrier& barrier : engine.block().phase_barriers) {
        if (barrier.initialiser != &engine.thread() || barrier.fenced) continue;
        barrier.fenced = true;
        barrier.epoch = engine.block().epoch;
    }
}

void arrive(std::uint64_t* word, int bytes, const BarrierUse& use) {
    Block& block = Engine::running()->block();
    PhaseBarrier& barrier = block.phase_barriers[find_barrier(word, use)];
    if (bytes < 0) refuse(use, std::to_string(bytes) + " bytes are expected");
    if (barrier.missing == 0)
        refuse(use, "an arrival too many: all " + std::to_string(barrier.arrivals) + " of phase " +
                        std::to_string(barrier.phase) + " of " + named(barrier) +
                        " are there already");
    barrier.bytes += bytes;
    --barrier.missing;
    advance(barrier, use);
}

void wait_for_phase(std::uint64_t* word, int parity, const BarrierUse& use) {
    if (parity != 0 && parity != 1) refuse(use, "parity " + std::to_string(parity));
    Engine::running()->await_phase(find_barrier(word, use), parity != 0, use.file, use.line);
}

}  // namespace emulation

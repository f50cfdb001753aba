// What blocks of a cluster do with each other (PTX 9.7.13.4 barrier.cluster, 9.7.9.24 mapa), and
// registers that move between warpgroups (9.7.19.5 setmaxnreg).
#include <cstring>

#include "engine.h"
#include "include/cuda/ptx_tma.cuh"

namespace emulation {

int cluster_rank() { return Engine::running()->block().rank; }

void meet_cluster(const char* file, int line) { Engine::running()->meet_cluster(file, line); }

void load_cluster(float* to, const void* shared, int rank, const char* file, int line) {
    Engine& engine = *Engine::running();
    const auto refuse = [&](cudaError_t error, const std::string& why) {
        engine.fail(error, "load_cluster_16: " + why + " at " + file + ":" + std::to_string(line));
    };
    const auto offset = reinterpret_cast<std::uintptr_t>(shared) -
                        reinterpret_cast<std::uintptr_t>(engine.shared_memory());
    if (offset % 16 != 0) refuse(cudaErrorMisalignedAddress, "no multiple of 16 bytes");
    if (engine.shared_bytes() < 16 || offset > engine.shared_bytes() - 16)
        refuse(cudaErrorIllegalAddress, "16 bytes at offset " + std::to_string(offset) + " of " +
                                            std::to_string(engine.shared_bytes()) +
                                            " bytes of shared memory");
    const std::vector<Block>& blocks = engine.cluster();
    if (rank < 0 || static_cast<std::size_t>(rank) >= blocks.size())
        refuse(cudaErrorIllegalAddress, "block " + std::to_string(rank) + " of a cluster of " +
                                            std::to_string(blocks.size()));
    const Block& other = blocks[static_cast<std::size_t>(rank)];
    if (static_cast<std::size_t>(other.done) == engine.block_threads())
        refuse(cudaErrorIllegalAddress,
               "block " + std::to_string(rank) + " of the cluster has ended");
    std::memcpy(to, other.shared + offset, 16);
}

namespace {

void complete_change(void* const* operands, unsigned) {
    Engine& engine = *Engine::running();
    Warp& warp = engine.warp();
    const auto& change = *static_cast<const RegisterChange*>(operands[0]);
    if (engine.block_threads() % 128 != 0)
        engine.fail(cudaErrorLaunchFailure, "setmaxnreg: not every warpgroup has 4 warps");
    std::vector<RegisterChange>& changes = engine.warpgroup(warp).register_changes;
    if (warp.register_changes == changes.size()) changes.push_back(change);
    const RegisterChange& first = changes[warp.register_changes++];
    if (first.registers != change.registers || first.gives != change.gives)
        engine.fail(cudaErrorLaunchFailure,
                    std::string("setmaxnreg: warps of a warpgroup have different numbers at ") +
                        change.file + ":" + std::to_string(change.line));
}

const Collective kChangeRegisters{"setmaxnreg", true, complete_change};

}  // namespace

void change_registers(int registers, bool gives, const char* file, int line) {
    RegisterChange change{registers, gives, file, line};
    meet(kChangeRegisters, &change, 0xffffffffu, file, line);
}

/// Whether every warp came to all changes of its warpgroup, and there are as many registers as were
/// taken: what is wrong, or nothing.
std::string Engine::misused_registers(const Block& block) const {
    constexpr int kRegisters = 64 * 1024, kMost = 255;
    const int even = kRegisters / static_cast<int>(block_threads_) / 8 * 8;
    int wanted = 0;
    for (const Warp& warp : warps_) {
        if (warp.block != block.rank) continue;
        const std::vector<RegisterChange>& changes =
            block.warpgroups[static_cast<std::size_t>(warp.number) / 4].register_changes;
        if (warp.register_changes < changes.size()) {
            const RegisterChange& missed = changes[warp.register_changes];
            return "warp " + std::to_string(warp.number) + " never reached its warpgroup's " +
                   "setmaxnreg at " + missed.file + ":" + std::to_string(missed.line);
        }
        int now = even < kMost ? even : kMost;
        for (const RegisterChange& change : changes) {
            if (change.gives ? change.registers > now : change.registers < now)
                return std::string(change.gives ? "give" : "take") + "_registers<" +
                       std::to_string(change.registers) + ">: its threads have " +
                       std::to_string(now) + " at " + change.file + ":" +
                       std::to_string(change.line);
            now = change.registers;
        }
        wanted += now * 32;
    }
    if (wanted <= kRegisters) return {};
    return "give_registers, take_registers: the block's threads end with " +
           std::to_string(wanted) + " registers of " + std::to_string(kRegisters);
}

}  // namespace emulation

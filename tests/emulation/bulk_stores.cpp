// Copies by TMA out of shared memory (cp.async.bulk.tensor, PTX 9.7.9.27.5), tiled, 128-byte
// swizzle.
//
// Delayed (the default, FASTCONV_EMULATION_CP_ASYNC): until its thread's wait a copy may still read
// shared memory, which must then be what it was at the issue; results are in global memory only
// when all of the cluster's blocks have ended. Immediate: everything at the issue.
#include <cstring>

#include "engine.h"
#include "include/cuda/ptx_tma.cuh"

namespace emulation {
namespace {

/// From a copy of its bytes of shared memory.
void write(const BulkCopy& copy, const unsigned char* shared) {
    BulkLines lines(copy);
    for (int line = 0; line < copy.map.line_count(); ++line, lines.next()) {
        unsigned char* to = lines.global();
        if (!to) continue;
        std::uint16_t elements[64];
        for (int chunk = 0; chunk < 8; ++chunk)
            std::memcpy(elements + chunk * 8, shared + swizzled_chunk(line, chunk), 16);
        std::memcpy(to, elements + lines.begin(),
                    static_cast<std::size_t>(lines.end() - lines.begin()) * 2);
    }
}

}  // namespace

void store_bulk(const CopyOperands& operands, const BarrierUse& use) {
    Engine& engine = *Engine::running();
    Block& block = engine.block();
    BulkStore store;
    store.copy = make_copy(operands, true, use);
    const std::size_t bytes = store.copy.byte_count();
    const auto offset = static_cast<std::size_t>(store.copy.shared - block.shared);
    for (std::size_t chunk = offset / 16; chunk < (offset + bytes) / 16; ++chunk)
        if (block.unfenced[chunk] != 0)
            refuse_copy(use, cudaErrorLaunchFailure,
                        "no fence.proxy.async after what was written to offset " +
                            std::to_string(chunk * 16) + " of shared memory");
    store.group = engine.thread().store_group;
    store.bytes.assign(store.copy.shared, store.copy.shared + bytes);
    block.stores.push_back(std::move(store));
    if (!engine.delays_copies()) engine.write_stores();
}

void commit_stores() { ++Engine::running()->thread().store_group; }

void wait_for_stores(int pending) {
    Engine& engine = *Engine::running();
    const Thread& thread = engine.thread();
    for (BulkStore& store : engine.block().stores) {
        const BulkCopy& copy = store.copy;
        if (copy.issuer != &thread || store.was_read || store.group >= thread.store_group - pending)
            continue;
        if (std::memcmp(copy.shared, store.bytes.data(), store.bytes.size()) != 0)
            refuse_copy({"copy_tile_out", copy.file, copy.line}, cudaErrorLaunchFailure,
                        "shared memory changed between its issue and its wait");
        store.was_read = true;
    }
}

void Engine::write_stores() {
    Block* const running = block_;
    for (Block& block : blocks_) {
        enter(block);
        for (const BulkStore& store : block.stores) {
            delivered_ = store.copy;
            write(store.copy, store.bytes.data());
            delivered_.reset();
        }
        if (!delays_copies_) block.stores.clear();
    }
    enter(*running);
}

}  // namespace emulation

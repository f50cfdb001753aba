// The functions of csrc/cuda/ptx_tma.cuh for the emulation: contracts are in that file. What they
// do is in tests/emulation: barriers.cpp, bulk_copies.cpp, bulk_stores.cpp, clusters.cpp.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx.cuh"
#include "cuda/tensor_map.h"

namespace emulation {

/// By which function a barrier is used, and where it was called.
struct BarrierUse {
    const char* name;
    const char* file;
    int line;
    bool by_copy = false;
};
void init_barrier(std::uint64_t* word, int arrivals, const BarrierUse& use);
void fence_barriers();
void arrive(std::uint64_t* word, int bytes, const BarrierUse& use);
void wait_for_phase(std::uint64_t* word, int parity, const BarrierUse& use);
/// Its index among the block's.
std::uint32_t find_barrier(const std::uint64_t* word, const BarrierUse& use);
/// Bytes that have arrived.
void count_bytes(std::uint32_t barrier, std::int64_t bytes, const BarrierUse& use);

struct CopyOperands {
    void* shared;
    const fastconv::cuda::TensorMap* map;
    bool im2col;
    int at[4], tap[2];
    const std::uint64_t* barrier;
};
void copy_bulk(const CopyOperands& operands, const BarrierUse& use);
void store_bulk(const CopyOperands& operands, const BarrierUse& use);
void commit_stores();
void wait_for_stores(int pending);

struct StoreMatrices {
    void* row;
    const std::uint32_t* word;
};
extern const Collective kStoreMatrices;

int cluster_rank();
void meet_cluster(const char* file, int line);
void load_cluster(float* to, const void* shared, int rank, const char* file, int line);
void change_registers(int registers, bool gives, const char* file, int line);

}  // namespace emulation

namespace fastconv::cuda::ptx {

#define FASTCONV_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

using Barrier = std::uint64_t;

inline void barrier_init(Barrier* barrier, int arrivals, FASTCONV_SITE) {
    emulation::init_barrier(barrier, arrivals, {"barrier_init", file, line});
}
inline void fence_barrier_init() { emulation::fence_barriers(); }
inline void barrier_arrive(Barrier* barrier, FASTCONV_SITE) {
    emulation::arrive(barrier, 0, {"barrier_arrive", file, line});
}
inline void barrier_arrive_expect(Barrier* barrier, int bytes, FASTCONV_SITE) {
    emulation::arrive(barrier, bytes, {"barrier_arrive_expect", file, line});
}
inline void barrier_wait(Barrier* barrier, int parity, FASTCONV_SITE) {
    emulation::wait_for_phase(barrier, parity, {"barrier_wait", file, line});
}

inline void copy_tile(void* to, const TensorMap& map, int x0, int x1, int x2, int x3,
                      Barrier* barrier, FASTCONV_SITE) {
    emulation::copy_bulk({to, &map, false, {x0, x1, x2, x3}, {0, 0}, barrier},
                         {"copy_tile", file, line, true});
}
inline void copy_im2col(void* to, const TensorMap& map, int c, int w, int h, int n, int tap_w,
                        int tap_h, Barrier* barrier, FASTCONV_SITE) {
    emulation::copy_bulk({to, &map, true, {c, w, h, n}, {tap_w, tap_h}, barrier},
                         {"copy_im2col", file, line, true});
}
inline void copy_tile_out(const TensorMap& map, int x0, int x1, int x2, int x3, const void* from,
                          FASTCONV_SITE) {
    emulation::store_bulk({const_cast<void*>(from), &map, false, {x0, x1, x2, x3}, {0, 0}, nullptr},
                          {"copy_tile_out", file, line});
}
inline void bulk_commit() { emulation::commit_stores(); }
template <int kPending>
inline void bulk_wait() {
    emulation::wait_for_stores(kPending);
}
inline void prefetch_map(const TensorMap&) {}

inline void store_matrices(void* row, const std::uint32_t (&word)[4], FASTCONV_SITE) {
    emulation::StoreMatrices operands{row, word};
    emulation::meet(emulation::kStoreMatrices, &operands, 0xffffffffu, file, line);
}

inline int cluster_rank() { return emulation::cluster_rank(); }
inline void cluster_barrier(FASTCONV_SITE) { emulation::meet_cluster(file, line); }
inline void load_cluster_16(float (&to)[4], const void* shared, int rank, FASTCONV_SITE) {
    emulation::load_cluster(to, shared, rank, file, line);
}

template <int kRegisters>
inline void give_registers(FASTCONV_SITE) {
    static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
    emulation::change_registers(kRegisters, true, file, line);
}
template <int kRegisters>
inline void take_registers(FASTCONV_SITE) {
    static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
    emulation::change_registers(kRegisters, false, file, line);
}

#undef FASTCONV_SITE

}  // namespace fastconv::cuda::ptx

// Instructions of compute capability 9.0 by which a few threads feed others through shared memory, as
// ptx.cuh has the older ones: barriers that count bytes, copies of tiles by the tensor memory
// accelerator (TMA), clusters of blocks, registers that move between warpgroups.
//
//   one thread                               everyone else
//   barrier_init(b, arrivals)
//   fence_barrier_init(); __syncthreads()    __syncthreads()
//   barrier_arrive_expect(b, bytes)
//   copy_tile / copy_im2col(..., b)          barrier_wait(b, parity)
//
// A barrier's phase is over once all its arrivals and the bytes that they said to expect are there;
// phases are numbered from 0, and barrier_wait takes the parity of the one waited for. What a wait
// returns from can be read by wgmma without another fence.
//
// The emulation (tests/emulation) has its own file of this name with the same functions.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx.cuh"
#include "cuda/tensor_map.h"

namespace fastconv::cuda::ptx {

// ---- mbarrier (9.7.13.15, sm_90) ------------------------------------------------------------------

/// In shared memory, 8-byte aligned.
using Barrier = std::uint64_t;

/// By one thread, before fence_barrier_init and a barrier of the block (of the cluster, where others
/// than the block's threads arrive).
__device__ inline void barrier_init(Barrier* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(arrivals)
                 : "memory");
}
/// Makes this thread's barrier_init known to the cluster's threads and to TMA.
__device__ inline void fence_barrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void barrier_arrive(Barrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                 : "memory");
}
/// Arrives, and has the phase wait for that many bytes of copies too.
__device__ inline void barrier_arrive_expect(Barrier* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}
/// Until the phase of that parity is over.
__device__ inline void barrier_wait(Barrier* barrier, int parity) {
    asm volatile(
        "{\n.reg .pred over;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
        "@!over bra again;\n}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// ---- cp.async.bulk.tensor (9.7.9.27.5, sm_90) -----------------------------------------------------
// By one thread. `to` is at a multiple of 1024 bytes of shared memory (128-byte swizzle), `map` a
// kernel's __grid_constant__ parameter or part of one. Coordinates count elements along the map's
// dimensions, the first is the fastest, of which a copy begins at a multiple of 16 bytes; what lies
// outside the tensor (of im2col, outside the image), before its beginning too, arrives as zeros, and
// counts as bytes too.

/// The map's box at these coordinates, of a tiled map of four dimensions.
__device__ inline void copy_tile(void* to, const TensorMap& map, int x0, int x1, int x2, int x3,
                                 Barrier* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)),
        "l"(&map), "r"(shared_address(barrier)), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
        : "memory");
}
/// The map's number of pixels from (w, h, n) on, as the map walks them, each read at (w + tap_w,
/// h + tap_h), the map's channels from c on.
__device__ inline void copy_im2col(void* to, const TensorMap& map, int c, int w, int h, int n,
                                   int tap_w, int tap_h, Barrier* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(shared_address(to)),
        "l"(&map), "r"(shared_address(barrier)), "r"(c), "r"(w), "r"(h), "r"(n),
        "h"(static_cast<std::uint16_t>(tap_w)), "h"(static_cast<std::uint16_t>(tap_h))
        : "memory");
}
/// The other way, of a tiled map: from shared memory, swizzled likewise, which must not be written
/// until bulk_wait says so. Before it: fence_proxy_async by who wrote there, and a barrier. What lies
/// beyond the tensor's end is not written; no coordinate may be negative (CUDA C++ Programming Guide,
/// copies of multi-dimensional arrays by TMA; a test that had some met "illegal instruction").
__device__ inline void copy_tile_out(const TensorMap& map, int x0, int x1, int x2, int x3,
                                     const void* from) {
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::
            "l"(&map),
        "r"(shared_address(from)), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
        : "memory");
}
/// Closes this thread's group of copies out.
__device__ inline void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Until at most kPending of this thread's groups have still to read shared memory.
template <int kPending>
__device__ inline void bulk_wait() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
/// Fetches the map itself ahead of its first use.
__device__ inline void prefetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// ---- stmatrix (9.7.15.4.16, sm_90) ----------------------------------------------------------------

/// Four 8x8 matrices of 16-bit elements to shared memory by a warp: word i of lane l is matrix i's row
/// l / 4, columns l % 4 * 2 and the next; lane l says where matrix l / 8's row l % 8 stands, 16 bytes.
__device__ inline void store_matrices(void* row, const std::uint32_t (&word)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(word[0]), "r"(word[1]), "r"(word[2]), "r"(word[3])
                 : "memory");
}

// ---- clusters (9.7.13.4 barrier.cluster, 9.7.9.24 mapa, sm_90) -------------------------------------

/// Of this block in its cluster.
__device__ inline int cluster_rank() {
    std::uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return static_cast<int>(rank);
}
/// By all threads of the cluster's blocks: what one wrote before, all can read after.
__device__ inline void cluster_barrier() {
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/// 16 bytes, 16-byte aligned, of the place in another block's shared memory that `shared` is in this
/// one's.
__device__ inline void load_cluster_16(float (&to)[4], const void* shared, int rank) {
    std::uint32_t address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(address)
                 : "r"(shared_address(shared)), "r"(rank));
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
                 : "r"(address)
                 : "memory");
}

// ---- setmaxnreg (9.7.19.5, sm_90a) ----------------------------------------------------------------

/// By a whole warpgroup: how many registers its threads have from here on; kernels need launch bounds.
template <int kRegisters>
__device__ inline void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace fastconv::cuda::ptx

// Kernels that do one thing with the functions of csrc/cuda/ptx_tma.cuh that a kernel must not do,
// for the report that the emulation gives. tma_misuse(name) returns it, empty if nothing was
// noticed.
//
// Every kernel runs as one cluster of two blocks of 512 threads, with 16 KB of shared memory and
// maps of a (2, 4, 8, 64) tensor: a box of 8 x 4 pixels, and a walk over an image, 32 pixels.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "cuda/ptx_tma.cuh"

namespace {

namespace cuda = fastconv::cuda;
namespace ptx = fastconv::cuda::ptx;

constexpr int kBytes = 32 * 128, kSharedBytes = 16 * 1024;

struct Maps {
    cuda::TensorMap tile, image, beyond, none;  // beyond: of more images than there are
};

/// The barrier, behind the destinations.
__device__ ptx::Barrier* barrier() {
    return reinterpret_cast<ptx::Barrier*>(ptx::shared_memory() + 3 * kBytes);
}
/// By all threads: initialised and known to all.
__device__ void start(int arrivals) {
    if (threadIdx.x == 0) {
        ptx::barrier_init(barrier(), arrivals);
        ptx::fence_barrier_init();
    }
    __syncthreads();
}
__device__ void copy(const cuda::TensorMap& map, int offset = 0) {
    ptx::copy_tile(ptx::shared_memory() + offset, map, 0, 0, 0, 0, barrier());
}

__global__ void nothing(Maps maps) {
    start(1);
    if (threadIdx.x == 0) {
        ptx::barrier_arrive_expect(barrier(), 2 * kBytes);
        copy(maps.tile);
        ptx::copy_im2col(ptx::shared_memory() + kBytes, maps.image, 0, 0, 0, 0, 0, 0, barrier());
    }
    ptx::barrier_wait(barrier(), 0);
    ptx::cluster_barrier();
}

// ---- barriers -----------------------------------------------------------------------------------

__global__ void never_initialised(Maps) { ptx::barrier_wait(barrier(), 0); }
__global__ void never_fenced(Maps) {
    if (threadIdx.x == 0) ptx::barrier_init(barrier(), 1);
    __syncthreads();
    if (threadIdx.x == 500) ptx::barrier_arrive(barrier());
}
__global__ void not_known_to_all(Maps) {
    if (threadIdx.x == 0) {
        ptx::barrier_init(barrier(), 1);
        ptx::fence_barrier_init();
    }
    if (threadIdx.x == 500) ptx::barrier_arrive(barrier());
}
__global__ void initialised_twice(Maps) {
    if (threadIdx.x != 0) return;
    ptx::barrier_init(barrier(), 1);
    ptx::barrier_init(barrier(), 1);
}
__global__ void no_arrivals(Maps) { ptx::barrier_init(barrier(), 0); }
__global__ void misaligned_barrier(Maps) {
    auto* const at = ptx::shared_memory() + 4;
    ptx::barrier_init(reinterpret_cast<ptx::Barrier*>(at), 1);
}
__global__ void overwritten(Maps) {
    start(1);
    std::memset(barrier(), 0, 8);
    __syncthreads();
    ptx::barrier_arrive(barrier());
}
__global__ void overwritten_by_a_copy(Maps maps) {
    if (threadIdx.x != 0) return;
    auto* const within = reinterpret_cast<ptx::Barrier*>(ptx::shared_memory() + 64);
    ptx::barrier_init(within, 1);
    ptx::fence_barrier_init();
    ptx::barrier_arrive_expect(within, kBytes);
    ptx::copy_tile(ptx::shared_memory(), maps.tile, 0, 0, 0, 0, within);
    ptx::barrier_wait(within, 0);
}
__global__ void arrival_too_many(Maps) {
    start(1);
    if (threadIdx.x == 0) ptx::barrier_arrive_expect(barrier(), 16);
    if (threadIdx.x == 0) ptx::barrier_arrive(barrier());
}
__global__ void arrival_too_few(Maps) {
    start(2);
    if (threadIdx.x == 0) ptx::barrier_arrive(barrier());
    ptx::barrier_wait(barrier(), 0);
}
__global__ void negative_bytes(Maps) {
    start(1);
    ptx::barrier_arrive_expect(barrier(), -16);
}
__global__ void megabyte(Maps) {
    start(2);
    ptx::barrier_arrive_expect(barrier(), 1 << 20);
}
__global__ void no_parity(Maps) {
    start(1);
    ptx::barrier_wait(barrier(), 2);
}
/// All but a warp wait for phase 0, and it ends phase 1 too before they have gone on.
__global__ void missed_phase(Maps) {
    start(1);
    if (threadIdx.x < 480) ptx::barrier_wait(barrier(), 0);
    if (threadIdx.x == 480) ptx::barrier_arrive(barrier());
    if (threadIdx.x == 480) ptx::barrier_arrive(barrier());
}

// ---- copies -------------------------------------------------------------------------------------

__global__ void copy_before_fence(Maps maps) {
    if (threadIdx.x != 0) return;
    ptx::barrier_init(barrier(), 1);
    ptx::barrier_arrive_expect(barrier(), kBytes);
    copy(maps.tile);
}
__global__ void unexpected_bytes(Maps maps) {
    start(1);
    if (threadIdx.x == 0) copy(maps.tile);
    if (threadIdx.x == 0) ptx::barrier_arrive(barrier());
    ptx::barrier_wait(barrier(), 0);
}
__global__ void never_awaited(Maps maps) {
    start(1);
    if (threadIdx.x == 0) ptx::barrier_arrive_expect(barrier(), kBytes);
    if (threadIdx.x == 0) copy(maps.tile);
}
__global__ void misaligned_destination(Maps maps) {
    start(1);
    copy(maps.tile, 512);
}
__global__ void destination_beyond(Maps maps) {
    start(1);
    copy(maps.tile, kSharedBytes - 1024);
}
__global__ void no_map(Maps maps) {
    start(1);
    copy(maps.none);
}
__global__ void tile_of_an_image(Maps maps) {
    start(1);
    copy(maps.image);
}
__global__ void walk_of_a_tile(Maps maps) {
    start(1);
    ptx::copy_im2col(ptx::shared_memory(), maps.tile, 0, 0, 0, 0, 0, 0, barrier());
}
__global__ void outside_the_walk(Maps maps) {
    start(1);
    ptx::copy_im2col(ptx::shared_memory(), maps.image, 0, 0, 4, 0, 0, 0, barrier());
}
__global__ void far_tap(Maps maps) {
    start(1);
    ptx::copy_im2col(ptx::shared_memory(), maps.image, 0, 0, 0, 0, 256, 0, barrier());
}
__global__ void channel_between(Maps maps) {
    start(1);
    ptx::copy_tile(ptx::shared_memory(), maps.tile, -4, 0, 0, 0, barrier());
}
__global__ void channel_of_an_image_between(Maps maps) {
    start(1);
    ptx::copy_im2col(ptx::shared_memory(), maps.image, 60, 0, 0, 0, 0, 0, barrier());
}
__global__ void store_channel_between(Maps maps) {
    ptx::copy_tile_out(maps.tile, 2, 0, 0, 0, ptx::shared_memory());
}
__global__ void store_before_channels(Maps maps) {
    ptx::copy_tile_out(maps.tile, -8, 0, 0, 0, ptx::shared_memory());
}
__global__ void store_before_images(Maps maps) {
    ptx::copy_tile_out(maps.tile, 0, 7, 3, -1, ptx::shared_memory());
}
__global__ void store_past_end(Maps maps) {
    if (threadIdx.x == 0) {
        ptx::copy_tile_out(maps.beyond, 0, 0, 0, 2, ptx::shared_memory());
        ptx::bulk_commit();
        ptx::bulk_wait<0>();
    }
}
__global__ void store_from_beyond(Maps maps) {
    ptx::copy_tile_out(maps.tile, 0, 0, 0, 0, ptx::shared_memory() + kSharedBytes);
}
__global__ void misaligned_matrices(Maps) {
    const std::uint32_t words[4] = {};
    ptx::store_matrices(ptx::shared_memory() + threadIdx.x % 32 * 8, words);
}
__global__ void source_past_end(Maps maps) {
    start(1);
    if (threadIdx.x == 0) {
        ptx::barrier_arrive_expect(barrier(), kBytes);
        ptx::copy_tile(ptx::shared_memory(), maps.beyond, 0, 0, 0, 2, barrier());
    }
    ptx::barrier_wait(barrier(), 0);
}

// ---- clusters and registers ---------------------------------------------------------------------

__global__ void no_such_rank(Maps) {
    float four[4];
    ptx::load_cluster_16(four, ptx::shared_memory(), 2);
}
__global__ void misaligned_load(Maps) {
    float four[4];
    ptx::load_cluster_16(four, ptx::shared_memory() + 8, 0);
}
__global__ void load_beyond(Maps) {
    float four[4];
    ptx::load_cluster_16(four, ptx::shared_memory() + kSharedBytes, 0);
}
__global__ void barriers_of_lanes(Maps) {
    if (threadIdx.x % 2 == 0) {
        ptx::cluster_barrier();
    } else {
        ptx::cluster_barrier();
    }
}
__global__ void barrier_of_one_block(Maps) {
    start(1);
    if (ptx::cluster_rank() == 0) ptx::barrier_wait(barrier(), 0);
    ptx::cluster_barrier();
}
__global__ void registers_of_three_warps(Maps) {
    if (threadIdx.x % 128 >= 32) ptx::give_registers<40>();
}
__global__ void different_registers(Maps) {
    if (threadIdx.x % 128 >= 32) {
        ptx::give_registers<40>();
    } else {
        ptx::give_registers<48>();
    }
}
__global__ void more_registers_than_there_are(Maps) {
    if (threadIdx.x < 128) {
        ptx::give_registers<40>();
    } else {
        ptx::take_registers<208>();
    }
}
__global__ void gives_more_than_it_has(Maps) { ptx::give_registers<208>(); }

struct Case {
    const char* name;
    void (*kernel)(Maps);
};
#define FASTCONV_CASE(name) {#name, name}
const Case kCases[] = {
    FASTCONV_CASE(nothing),
    FASTCONV_CASE(never_initialised),
    FASTCONV_CASE(never_fenced),
    FASTCONV_CASE(not_known_to_all),
    FASTCONV_CASE(initialised_twice),
    FASTCONV_CASE(no_arrivals),
    FASTCONV_CASE(misaligned_barrier),
    FASTCONV_CASE(overwritten),
    FASTCONV_CASE(overwritten_by_a_copy),
    FASTCONV_CASE(arrival_too_many),
    FASTCONV_CASE(arrival_too_few),
    FASTCONV_CASE(negative_bytes),
    FASTCONV_CASE(megabyte),
    FASTCONV_CASE(no_parity),
    FASTCONV_CASE(missed_phase),
    FASTCONV_CASE(copy_before_fence),
    FASTCONV_CASE(unexpected_bytes),
    FASTCONV_CASE(never_awaited),
    FASTCONV_CASE(misaligned_destination),
    FASTCONV_CASE(destination_beyond),
    FASTCONV_CASE(no_map),
    FASTCONV_CASE(tile_of_an_image),
    FASTCONV_CASE(walk_of_a_tile),
    FASTCONV_CASE(outside_the_walk),
    FASTCONV_CASE(far_tap),
    FASTCONV_CASE(channel_between),
    FASTCONV_CASE(channel_of_an_image_between),
    FASTCONV_CASE(store_channel_between),
    FASTCONV_CASE(store_before_channels),
    FASTCONV_CASE(store_before_images),
    FASTCONV_CASE(store_past_end),
    FASTCONV_CASE(store_from_beyond),
    FASTCONV_CASE(misaligned_matrices),
    FASTCONV_CASE(source_past_end),
    FASTCONV_CASE(no_such_rank),
    FASTCONV_CASE(misaligned_load),
    FASTCONV_CASE(load_beyond),
    FASTCONV_CASE(barriers_of_lanes),
    FASTCONV_CASE(barrier_of_one_block),
    FASTCONV_CASE(registers_of_three_warps),
    FASTCONV_CASE(different_registers),
    FASTCONV_CASE(more_registers_than_there_are),
    FASTCONV_CASE(gives_more_than_it_has),
};

cudaError_t launch(void (*kernel)(Maps), const Maps& maps, unsigned blocks, unsigned cluster) {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = cluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(512);
    config.dynamicSmemBytes = kSharedBytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, maps);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* tma_misuse(const char* name) {
    static thread_local std::string text;
    text = std::string("no case ") + name;
    for (const Case& which : kCases) {
        if (std::strcmp(which.name, name) != 0) continue;
        void* data = nullptr;
        cudaMalloc(&data, 2 * 4 * 8 * 64 * 2);
        cuda::MappedTensor tensor{data, true, {64, 8, 4, 2}, {64, 64 * 8, 64 * 8 * 4}};
        Maps maps{};
        maps.tile = cuda::tiled_map(tensor, {64, 8, 4, 1});
        maps.image = cuda::im2col_map(tensor, {0, 7, 0, 3, 1, 1, 32});
        tensor.size[3] = 4;
        maps.beyond = cuda::tiled_map(tensor, {64, 8, 4, 1});
        const cudaError_t error = launch(which.kernel, maps, 2, 2);
        text = error == cudaSuccess ? "" : cudaGetErrorString(error);
        cudaFree(data);
    }
    return text.c_str();
}

/// What the runtime says to a launch of so many blocks in clusters of so many.
extern "C" __attribute__((visibility("default"))) const char* tma_launch(unsigned blocks,
                                                                         unsigned cluster) {
    static thread_local std::string text;
    const cudaError_t error = launch(no_arrivals, Maps{}, blocks, cluster);
    text = error == cudaErrorInvalidConfiguration ? cudaGetErrorString(error) : "launched";
    cudaGetLastError();  // or the next test would find it
    return text.c_str();
}

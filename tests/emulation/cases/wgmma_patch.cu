// Operands of wgmma that start at any line of 128 bytes, with any number of lines from one eight to
// the next: a patch of an image, copied once, is read at every tap. Also compiles with nvcc
// (sm_90a).
//
// Of 8 x 8 pixels and 64 channels, float32 sums; x is a patch of an image:
//
//   kPixelsA    out[p, q, k] = sum over r, s, c of x[p + r, q + s, c] * w[k, r, s, c], K-major
//   kPixelsB    out[k, p, q], the same the other way round
//   kChannels   out[r, s, c, k] = sum over p, q of x[p + r, q + s, c] * dy[p, q, k], MN-major, dy
//               in a patch too
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx_sm90.cuh"
#include "cuda/ptx_tma.cuh"
#include "host_side.h"

namespace {

namespace cuda = fastconv::cuda;
namespace ptx = fastconv::cuda::ptx;

enum class Role : int { kPixelsA, kPixelsB, kChannels };

/// Lines, a pixel each.
struct Patch {
    int width, height, first;  // the pixel that is p = q = r = s = 0

    __host__ __device__ int bytes() const { return (width * height + 7) / 8 * 1024; }
    /// Of the pixel, from the patch's start.
    __host__ __device__ int offset(int row, int col) const {
        return (first + row * width + col) * 128;
    }
};

__device__ void put(const float (&d)[32], float* out) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
    for (int i = 0; i < 32; ++i)
        out[(row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + col + i % 2] = d[i];
}

template <bool kPixelsFirst>
__device__ void multiply_pixels(const unsigned char* patch, const unsigned char* w, const Patch& x,
                                int taps_h, int taps_w, float* out) {
    float d[32];
    ptx::wgmma_fence();
    for (int r = 0; r < taps_h; ++r)
        for (int s = 0; s < taps_w; ++s)
            for (int part = 0; part < 4; ++part) {  // 16 channels
                const std::uint64_t pixels = ptx::matrix_descriptor(
                    patch + x.offset(r, s) + part * 32, 0, x.width * 128);
                const std::uint64_t filters = ptx::matrix_descriptor(
                    w + (r * taps_w + s) * 64 * 128 + part * 32, 0, 1024);
                ptx::wgmma_64x64x16_bf16(d, kPixelsFirst ? pixels : filters,
                                         kPixelsFirst ? filters : pixels, r + s + part > 0);
            }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    put(d, out);
}

__device__ void multiply_channels(const unsigned char* patch, const unsigned char* other,
                                  const Patch& x, const Patch& dy, int r, int s, float* out) {
    float d[32];
    ptx::wgmma_fence();
    for (int part = 0; part < 4; ++part)  // 16 pixels: two rows of 8
        ptx::wgmma_64x64x16_bf16<true, true>(
            d, ptx::matrix_descriptor(patch + x.offset(part * 2 + r, s), 0, x.width * 128),
            ptx::matrix_descriptor(other + dy.offset(part * 2, 0), 0, dy.width * 128), part > 0);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    put(d, out);
}

/// other: w (64, taps, 64) or dy.
template <Role kRole>
__global__ void __launch_bounds__(128)
    correlate(const __grid_constant__ cuda::TensorMap x_map,
              const __grid_constant__ cuda::TensorMap other_map, Patch x, Patch dy, int taps_h,
              int taps_w, float* out) {
    constexpr bool kChannels = kRole == Role::kChannels;
    const int taps = taps_h * taps_w, other_bytes = kChannels ? dy.bytes() : taps * 64 * 128;
    unsigned char* const patch = ptx::shared_memory();
    unsigned char* const other = patch + x.bytes();
    auto* const barrier = reinterpret_cast<ptx::Barrier*>(other + other_bytes);
    if (threadIdx.x == 0) {
        ptx::barrier_init(barrier, 1);
        ptx::fence_barrier_init();
        const int x_bytes = x.width * x.height * 128;
        ptx::barrier_arrive_expect(
            barrier, x_bytes + (kChannels ? dy.width * dy.height * 128 : other_bytes));
        ptx::copy_tile(patch, x_map, 0, 0, 0, 0, barrier);
        for (int tap = 0; tap < (kChannels ? 1 : taps); ++tap)
            ptx::copy_tile(other + tap * 64 * 128, other_map, 0, tap, 0, 0, barrier);
    }
    __syncthreads();
    ptx::barrier_wait(barrier, 0);
    if constexpr (kChannels) {
        for (int tap = 0; tap < taps; ++tap)
            multiply_channels(patch, other, x, dy, tap / taps_w, tap % taps_w, out + tap * 64 * 64);
    } else {
        multiply_pixels<kRole == Role::kPixelsA>(patch, other, x, taps_h, taps_w, out);
    }
}

/// (height, width, 64).
cuda::MappedTensor contiguous(const OnDevice& memory, int width, int height) {
    const std::int64_t row = std::int64_t{64} * width;
    return {memory.as<void>(), true, {64, width, height, 1}, {64, row, row * height}};
}

}  // namespace

/// problem: taps_h, taps_w, then width, height and first of x's patch, and of dy's; x (height,
/// width, 64), other w (64, taps_h, taps_w, 64) or dy (height, width, 64), bfloat16. out: (64, 64),
/// of kChannels one for each tap. All host memory.
FASTCONV_VISIBLE const char* wgmma_patch(int role, const int* problem, const std::uint16_t* x,
                                         const std::uint16_t* other, float* out) {
    return said([&] {
        const int taps_h = problem[0], taps_w = problem[1], taps = taps_h * taps_w;
        const Patch patch{problem[2], problem[3], problem[4]};
        const Patch dy{problem[5], problem[6], problem[7]};
        const bool channels = role == static_cast<int>(Role::kChannels);
        const int other_lines = channels ? dy.width * dy.height : 64 * taps;
        const OnDevice image(x, std::size_t{128} * patch.width * patch.height);
        const OnDevice second(other, std::size_t{128} * other_lines);
        const OnDevice result(out, std::size_t{4} * 64 * 64 * (channels ? taps : 1));
        const cuda::TensorMap x_map =
            cuda::tiled_map(contiguous(image, patch.width, patch.height),
                            {64, patch.width, patch.height, 1});
        const cuda::TensorMap other_map =
            channels ? cuda::tiled_map(contiguous(second, dy.width, dy.height),
                                       {64, dy.width, dy.height, 1})
                     : cuda::tiled_map(contiguous(second, taps, 64), {64, 1, 64, 1});
        auto* kernel = correlate<Role::kPixelsA>;
        if (role == static_cast<int>(Role::kPixelsB)) kernel = correlate<Role::kPixelsB>;
        if (channels) kernel = correlate<Role::kChannels>;
        const int bytes = patch.bytes() + (channels ? dy.bytes() : 64 * 128 * taps) + 8;
        launch(kernel, 1, 128, 1, bytes, x_map, other_map, patch, dy, taps_h, taps_w,
               result.as<float>());
        result.read(out);
    });
}

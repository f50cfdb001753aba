// Copies by TMA and the barriers that count them (csrc/cuda/ptx_tma.cuh), in two small programs
// that also compile with nvcc (sm_90a), the second with one bug each of the kinds that the
// emulation must catch:
//
//   copy_to_shared   one copy, tiled or im2col: the bytes that it leaves in shared memory
//   convolve         out[pixel, k] = sum over r, s, c of x[pixel at (r, s), c] * w[k, r, s, c],
//                    NHWC bfloat16, float32 sums, 64 filters: two warpgroups multiply what one
//                    thread of a third copies into a ring of two stages
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx_sm90.cuh"
#include "cuda/ptx_tma.cuh"
#include "host_side.h"

namespace {

namespace cuda = fastconv::cuda;
namespace ptx = fastconv::cuda::ptx;

enum class Bug : int {
    kNone,
    kNoFullWait,     // multiplies what has not arrived
    kNoEmptyWait,    // copies into a stage that is being multiplied
    kNoEmptyArrive,  // of one warp
    kEarlyArrive,    // gives a stage back while it is being multiplied
    kWrongParity,    // of the waits for full stages
    kTooManyBytes,   // expected
    kTooFewBytes,    // expected
    kWrongTap,       // the next one along the width
};

// What drivers' bit for small tensors hangs on (csrc/cuda/tensor_map.cpp): filters within taps, a slice
// of 64 of 512 channels, and one pixel, whose other strides nothing uses.
static_assert(cuda::MappedTensor{nullptr, true, {64, 3, 3, 128}, {8192, 24576, 64}}.span_bytes() ==
              9 * 128 * 64 * 2);
static_assert(cuda::MappedTensor{nullptr, true, {64, 2, 8, 8}, {512, 1024, 8192}}.span_bytes() ==
              (127 * 512 + 64) * 2);
static_assert(cuda::MappedTensor{nullptr, true, {64, 1, 1, 1}, {1 << 20, 8, 16}}.span_bytes() == 128);

// ---- one copy -----------------------------------------------------------------------------------

struct Place {
    int at[4], tap[2];
};

/// out: the copy's bytes, as they lie in shared memory, of `passes` copies one after another to the
/// same place: a barrier of as many phases.
template <bool kIm2col>
__global__ void copy_to_shared(const __grid_constant__ cuda::TensorMap map, Place place, int bytes,
                               int passes, std::uint32_t* out) {
    unsigned char* const tile = ptx::shared_memory();
    auto* const barrier = reinterpret_cast<ptx::Barrier*>(tile + bytes);
    if (threadIdx.x == 0) {
        ptx::prefetch_map(map);
        ptx::barrier_init(barrier, 1);
        ptx::fence_barrier_init();
    }
    __syncthreads();
    for (int pass = 0; pass < passes; ++pass) {
        if (threadIdx.x == 0) {
            const int(&at)[4] = place.at;
            ptx::barrier_arrive_expect(barrier, bytes);
            if constexpr (kIm2col) {
                ptx::copy_im2col(tile, map, at[0], at[1], at[2], at[3], place.tap[0], place.tap[1],
                                 barrier);
            } else {
                ptx::copy_tile(tile, map, at[0], at[1], at[2], at[3], barrier);
            }
        }
        ptx::barrier_wait(barrier, pass % 2);
        __syncthreads();  // who is late must not miss the phase
    }
    for (int i = static_cast<int>(threadIdx.x); i < bytes / 4; i += static_cast<int>(blockDim.x))
        out[i] = reinterpret_cast<const std::uint32_t*>(tile)[i];
}

// ---- a convolution ------------------------------------------------------------------------------

struct Convolution {
    int batch, channels, height, width, taps_h, taps_w, stride, dilation, pad, out_h, out_w;
};

constexpr int kPixels = 128, kFilters = 64, kStages = 2;
constexpr int kPixelBytes = kPixels * 128, kStageBytes = kPixelBytes + kFilters * 128;
constexpr int kConvolveBytes = kStages * kStageBytes + 2 * kStages * 8;

struct Ring {
    ptx::Barrier* full;
    ptx::Barrier* empty;
};

template <Bug kBug>
__device__ void feed(const cuda::TensorMap& x, const cuda::TensorMap& w, const Convolution& c,
                     const Ring& ring, int first_pixel) {
    const int q = first_pixel % c.out_w, p = first_pixel / c.out_w % c.out_h;
    const int n = first_pixel / c.out_w / c.out_h;
    int step = 0;
    for (int ch = 0; ch < c.channels; ch += 64)
        for (int r = 0; r < c.taps_h; ++r)
            for (int s = 0; s < c.taps_w; ++s, ++step) {
                const int stage = step % kStages;
                unsigned char* const to = ptx::shared_memory() + stage * kStageBytes;
                if (kBug != Bug::kNoEmptyWait)
                    ptx::barrier_wait(ring.empty + stage, (step / kStages + 1) % 2);
                int bytes = kStageBytes;
                if (kBug == Bug::kTooManyBytes) bytes += 16;
                if (kBug == Bug::kTooFewBytes) bytes -= kFilters * 128;
                ptx::barrier_arrive_expect(ring.full + stage, bytes);
                const int tap_w = s + (kBug == Bug::kWrongTap ? 1 : 0);
                ptx::copy_im2col(to, x, ch, q * c.stride - c.pad, p * c.stride - c.pad, n,
                                 tap_w * c.dilation, r * c.dilation, ring.full + stage);
                ptx::copy_tile(to + kPixelBytes, w, ch, s, r, 0, ring.full + stage);
            }
}

template <Bug kBug>
__device__ void consume(const Convolution& c, const Ring& ring, int first_pixel, float* out) {
    const int warpgroup = static_cast<int>(threadIdx.x) / 128 - 1;
    const int steps = (c.channels + 63) / 64 * c.taps_h * c.taps_w;
    float d[kFilters / 2];
    for (int step = 0; step < steps; ++step) {
        const int stage = step % kStages;
        const int parity = step / kStages % 2;
        if (kBug != Bug::kNoFullWait)
            ptx::barrier_wait(ring.full + stage, kBug == Bug::kWrongParity ? parity ^ 1 : parity);
        const unsigned char* a = ptx::shared_memory() + stage * kStageBytes + warpgroup * 64 * 128;
        const unsigned char* b = ptx::shared_memory() + stage * kStageBytes + kPixelBytes;
        ptx::wgmma_fence();
        for (int part = 0; part < 4; ++part)
            ptx::wgmma_64x64x16_bf16(d, ptx::matrix_descriptor(a + part * 32, 0, 1024),
                                     ptx::matrix_descriptor(b + part * 32, 0, 1024),
                                     step + part > 0);
        ptx::wgmma_commit();
        if (kBug != Bug::kEarlyArrive) ptx::wgmma_wait<0>();
        const bool arrives = kBug != Bug::kNoEmptyArrive || threadIdx.x != 128;
        if (threadIdx.x % 32 == 0 && arrives) ptx::barrier_arrive(ring.empty + stage);
        if (kBug == Bug::kEarlyArrive) ptx::wgmma_wait<0>();
    }
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32 % 4;
    const int pixels = c.batch * c.out_h * c.out_w;
    for (int i = 0; i < kFilters / 2; ++i) {
        const int pixel = first_pixel + warpgroup * 64 + warp * 16 + lane / 4 + i / 2 % 2 * 8;
        const int k = i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (pixel < pixels) out[pixel * kFilters + k] = d[i];
    }
}

template <Bug kBug>
__global__ void __launch_bounds__(384, 1)
    convolve(const __grid_constant__ cuda::TensorMap x, const __grid_constant__ cuda::TensorMap w,
             Convolution c, float* out) {
    auto* const barriers =
        reinterpret_cast<ptx::Barrier*>(ptx::shared_memory() + kStages * kStageBytes);
    const Ring ring{barriers, barriers + kStages};
    const int first_pixel = static_cast<int>(blockIdx.x) * kPixels;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < kStages; ++stage) {
            ptx::barrier_init(ring.full + stage, 1);
            ptx::barrier_init(ring.empty + stage, 8);  // warps that multiply
        }
        ptx::fence_barrier_init();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        ptx::give_registers<40>();
        if (threadIdx.x == 0) feed<kBug>(x, w, c, ring, first_pixel);
    } else {
        ptx::take_registers<232>();
        consume<kBug>(c, ring, first_pixel, out);
    }
}

// ---- the host's side ----------------------------------------------------------------------------

cuda::MappedTensor contiguous(const std::uint16_t* data, int channels, int width, int height,
                              int batch) {
    cuda::MappedTensor tensor;
    tensor.data = data;
    tensor.bfloat16 = true;
    const std::int64_t size[4] = {channels, width, height, batch};
    for (int d = 0; d < 4; ++d) tensor.size[d] = size[d];
    tensor.elems[0] = channels;
    for (int d = 1; d < 3; ++d) tensor.elems[d] = tensor.elems[d - 1] * tensor.size[d];
    return tensor;
}

}  // namespace

/// data: (batch, height, width, channels) of host memory, `spare` elements more between pixels.
/// shape: channels, width, height, batch. place: at[4], tap[2]. box: of copy_tile, or null; walk:
/// first_w, last_w, first_h, last_h, step_w, step_h, pixels. out: the copy's bytes.
FASTCONV_VISIBLE const char* tma_copy(const std::uint16_t* data, const int* shape, int spare,
                                      const int* box, const int* walk, const int* place, int passes,
                                      void* out) {
    return said([&] {
        cuda::MappedTensor tensor =
            contiguous(nullptr, shape[0] + spare, shape[1], shape[2], shape[3]);
        const auto elems = tensor.elems[2] * shape[3];
        tensor.size[0] = shape[0];
        const OnDevice memory(data, static_cast<std::size_t>(elems) * 2);
        tensor.data = memory.as<void>();
        Place at{};
        for (int d = 0; d < 4; ++d) at.at[d] = place[d];
        for (int d = 0; d < 2; ++d) at.tap[d] = place[4 + d];
        const int bytes = 128 * (box ? box[1] * box[2] * box[3] : walk[6]);
        const OnDevice result(out, static_cast<std::size_t>(bytes));
        if (box) {
            const int extents[4] = {box[0], box[1], box[2], box[3]};
            launch(copy_to_shared<false>, 1, 64, 1, bytes + 8, cuda::tiled_map(tensor, extents), at,
                   bytes, passes, result.as<std::uint32_t>());
        } else {
            const cuda::ImageWalk of{walk[0], walk[1], walk[2], walk[3], walk[4], walk[5], walk[6]};
            launch(copy_to_shared<true>, 1, 64, 1, bytes + 8, cuda::im2col_map(tensor, of), at,
                   bytes, passes, result.as<std::uint32_t>());
        }
        result.read(out);
    });
}

using Convolve = void (*)(cuda::TensorMap, cuda::TensorMap, Convolution, float*);
constexpr Convolve kConvolves[] = {
    convolve<Bug::kNone>,          convolve<Bug::kNoFullWait>,  convolve<Bug::kNoEmptyWait>,
    convolve<Bug::kNoEmptyArrive>, convolve<Bug::kEarlyArrive>, convolve<Bug::kWrongParity>,
    convolve<Bug::kTooManyBytes>,  convolve<Bug::kTooFewBytes>, convolve<Bug::kWrongTap>};

/// problem: a Convolution's numbers; x (batch, height, width, channels), w (64, taps_h, taps_w,
/// channels) bfloat16, out (batch, out_h, out_w, 64), all host memory.
FASTCONV_VISIBLE const char* tma_convolve(int bug, const int* problem, const std::uint16_t* x,
                                          const std::uint16_t* w, float* out) {
    return said([&] {
        const Convolution c{problem[0], problem[1], problem[2], problem[3], problem[4], problem[5],
                            problem[6], problem[7], problem[8], problem[9], problem[10]};
        const int pixels = c.batch * c.out_h * c.out_w, taps = c.taps_h * c.taps_w;
        const OnDevice image(x, std::size_t{2} * c.batch * c.height * c.width * c.channels);
        const OnDevice weights(w, std::size_t{2} * kFilters * taps * c.channels);
        const OnDevice result(out, std::size_t{4} * pixels * kFilters);
        cuda::ImageWalk walk;
        walk.first_w = walk.first_h = -c.pad;
        walk.last_w = (c.out_w - 1) * c.stride - c.pad;
        walk.last_h = (c.out_h - 1) * c.stride - c.pad;
        walk.step_w = walk.step_h = c.stride;
        walk.pixels = kPixels;
        const int box[4] = {64, 1, 1, kFilters};
        const auto blocks = static_cast<unsigned>((pixels + kPixels - 1) / kPixels);
        launch(kConvolves[bug], dim3(blocks), 384, 1, kConvolveBytes,
               cuda::im2col_map(contiguous(image.as<std::uint16_t>(), c.channels, c.width, c.height,
                                           c.batch),
                                walk),
               cuda::tiled_map(contiguous(weights.as<std::uint16_t>(), c.channels, c.taps_w,
                                          c.taps_h, kFilters),
                               box),
               c, result.as<float>());
        result.read(out);
    });
}

// grad_bias[k] = sum over n, p, q of grad_output[n, k, p, q]; also of a matrix (N, K), P = Q = 1.
//
// Reads grad_output once: the floor is its bytes over the memory's bandwidth. Two kernels, which
// give each chunk's sums, (chunks, K) in float32, and one that adds the chunks in order:
//   sum_positions  channels are nearer to each other than columns: a thread has a pack of channels
//                  and walks positions; 16 bytes an access where channels are unit stride, aligned
//   sum_lines      columns are nearer (C order): 8 to 32 threads have a channel and walk its lines,
//                  or its whole images where those are dense; 16 bytes an access between a line's
//                  first and last aligned addresses, where columns are unit stride
// Chunks follow from shape and strides alone, so the bits do not depend on the device.
#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstdlib>

#include "core/ceil_div.h"
#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/ptx.cuh"
#include "cuda/scalar.cuh"
#include "ops.h"

namespace fastconv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMostBlocks = 1056;   // 8 for each multiprocessor of an H100
constexpr std::int64_t kLoads = 8;           // of a thread, at least, before a chunk is cut in two
constexpr std::int64_t kPieceElems = 8192;   // of a line that is taken at once

struct Positions {
    Strides strides;
    std::int64_t channels, count, chunk;  // positions in all, and in a chunk
    int out_h, out_w;
    int lanes;    // packs of a block: threads that lie side by side on one position
    bool vector;  // whole packs are one access
};

/// partial[chunk, k] = the sum of a chunk of positions. Blocks: x chunks, y blocks of packs.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_positions(const Positions p, const T* grad,
                                                          float* partial) {
    constexpr int kElems = kPackElems<T>;
    const int lane = static_cast<int>(threadIdx.x) % p.lanes;
    const int step = kThreads / p.lanes;  // positions that a block reads at a time
    const int first = static_cast<int>(threadIdx.x) / p.lanes;
    const std::int64_t channel =
        (std::int64_t{blockIdx.y} * p.lanes + lane) * kElems;
    const std::int64_t left = p.channels - channel;
    const int elems = left < kElems ? static_cast<int>(left > 0 ? left : 0) : kElems;
    const bool whole = p.vector && elems == kElems;

    const std::int64_t begin = blockIdx.x * p.chunk;
    const int end = static_cast<int>(p.count - begin < p.chunk ? p.count - begin : p.chunk);
    const std::int64_t line = (begin + first) / p.out_w;
    int j = static_cast<int>(begin + first - line * p.out_w);
    std::int64_t n = line / p.out_h;
    int i = static_cast<int>(line - n * p.out_h);
    const int step_j = step % p.out_w, step_i = step / p.out_w % p.out_h,
              step_n = step / p.out_w / p.out_h;

    float sums[kElems] = {};
    const T* from = grad + channel * p.strides.channel_elems;
    if (elems > 0 && first < step)
#pragma unroll 4
        for (int at = first; at < end; at += step) {
            const T* x = from + n * p.strides.batch_elems + i * p.strides.height_elems +
                         j * p.strides.width_elems;
            if (whole) {
                const auto pack = *reinterpret_cast<const Pack<T, kElems>*>(x);
#pragma unroll
                for (int e = 0; e < kElems; ++e) sums[e] += to_float(pack.value[e]);
            } else {
#pragma unroll
                for (int e = 0; e < kElems; ++e)
                    if (e < elems) sums[e] += to_float(x[e * p.strides.channel_elems]);
            }
            j += step_j;
            i += step_i;
            n += step_n;
            if (j >= p.out_w) {
                j -= p.out_w;
                ++i;
            }
            if (i >= p.out_h) {
                i -= p.out_h;
                ++n;
            }
        }

    // (positions, channels) of the block's sums
    float* shared = reinterpret_cast<float*>(ptx::shared_memory());
    const int width = p.lanes * kElems;
    if (first < step)
        for (int e = 0; e < kElems; ++e) shared[first * width + lane * kElems + e] = sums[e];
    __syncthreads();
    const std::int64_t block_channel = std::int64_t{blockIdx.y} * width;
    for (int c = static_cast<int>(threadIdx.x); c < width; c += kThreads) {
        float sum = 0;
        for (int r = 0; r < step; ++r) sum += shared[r * width + c];
        if (block_channel + c < p.channels)
            partial[blockIdx.x * p.channels + block_channel + c] = sum;
    }
}

struct Lines {
    Strides strides;
    std::int64_t channels;
    std::int64_t length;
    int lines;         // of an image
    int pieces;        // of a line, kPieceElems each
    int count, chunk;  // pieces in all, for each channel, and in a chunk
    int lanes;         // threads of a channel, a power of 2 up to 32
};

/// This lane's part of x[0 : length], with unit stride.
template <class T>
__device__ float sum_run(const T* x, int length, int lane, int lanes) {
    constexpr int kElems = kPackElems<T>;
    const int misaligned = static_cast<int>(reinterpret_cast<std::uintptr_t>(x) % 16 / sizeof(T));
    int head = misaligned == 0 ? 0 : kElems - misaligned;
    head = head < length ? head : length;
    const int packs = (length - head) / kElems;
    float sum = 0;
    if (lane < head) sum += to_float(x[lane]);  // fewer than a pack, and that is at most 8 lanes
    const Pack<T, kElems>* aligned = reinterpret_cast<const Pack<T, kElems>*>(x + head);
#pragma unroll 4
    for (int p = lane; p < packs; p += lanes) {
        const Pack<T, kElems> pack = aligned[p];
#pragma unroll
        for (int e = 0; e < kElems; ++e) sum += to_float(pack.value[e]);
    }
    const int tail = head + packs * kElems + lane;
    if (tail < length) sum += to_float(x[tail]);
    return sum;
}

/// partial[chunk, k] = the sum of a chunk of a channel's pieces. Blocks: x chunks, y blocks of
/// channels.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_lines(const Lines p, const T* grad,
                                                      float* partial) {
    const int lane = static_cast<int>(threadIdx.x) % p.lanes;
    const std::int64_t channel = std::int64_t{blockIdx.y} * (kThreads / p.lanes) +
                                 static_cast<int>(threadIdx.x) / p.lanes;
    const int begin = static_cast<int>(blockIdx.x) * p.chunk;
    const int end = p.count - begin < p.chunk ? p.count : begin + p.chunk;

    float sum = 0;
    if (channel < p.channels && begin < end) {
        const int line = begin / p.pieces;
        std::int64_t first = (begin - line * p.pieces) * kPieceElems;
        int n = line / p.lines, i = line - n * p.lines;
        const T* image = grad + channel * p.strides.channel_elems;
        for (int piece = begin; piece < end; ++piece) {
            const std::int64_t left = p.length - first;
            const int length = static_cast<int>(left < kPieceElems ? left : kPieceElems);
            const T* x = image + n * p.strides.batch_elems + i * p.strides.height_elems +
                         first * p.strides.width_elems;
            if (p.strides.width_elems == 1)
                sum += sum_run(x, length, lane, p.lanes);
            else
                for (int j = lane; j < length; j += p.lanes)
                    sum += to_float(x[j * p.strides.width_elems]);
            first += kPieceElems;
            if (first >= p.length) {
                first = 0;
                if (++i == p.lines) {
                    i = 0;
                    ++n;
                }
            }
        }
    }
    for (int other = p.lanes / 2; other > 0; other /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, other);
    if (lane == 0 && channel < p.channels) partial[blockIdx.x * p.channels + channel] = sum;
}

constexpr int kAddSlices = 16;  // of the chunks; a block has 32 channels

/// out[k] (+)= the sum over chunks of partial[chunk, k].
template <class T>
__global__ void __launch_bounds__(32 * kAddSlices)
    add_chunks(const float* partial, std::int64_t chunks, std::int64_t channels, T* out,
               std::int64_t out_elems, bool accumulate) {
    const int lane = static_cast<int>(threadIdx.x) % 32, slice = static_cast<int>(threadIdx.x) / 32;
    const std::int64_t channel = std::int64_t{blockIdx.x} * 32 + lane;
    float sum = 0;
    if (channel < channels)
#pragma unroll 8
        for (std::int64_t chunk = slice; chunk < chunks; chunk += kAddSlices)
            sum += partial[chunk * channels + channel];
    float* shared = reinterpret_cast<float*>(ptx::shared_memory());  // (slices, 32)
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (slice != 0 || channel >= channels) return;
    for (int s = 1; s < kAddSlices; ++s) sum += shared[s * 32 + lane];
    T* to = out + channel * out_elems;
    *to = from_float<T>(accumulate ? to_float(*to) + sum : sum);
}

/// How long chunks of `count` pieces are: of at least `least` each, and blocks * chunks at most
/// kMostBlocks unless there are more blocks.
std::int64_t chunk_of(std::int64_t count, std::int64_t least, std::int64_t blocks) {
    const std::int64_t most = std::max<std::int64_t>(1, kMostBlocks / blocks);
    const std::int64_t chunks =
        std::clamp<std::int64_t>(count / std::max<std::int64_t>(1, least), 1, most);
    return std::max<std::int64_t>(1, ceil_div(count, chunks));
}

void finish(const Conv& conv, const float* partial, std::int64_t chunks, void* out, DType out_dtype,
            std::int64_t out_elems, bool accumulate, Stream stream) {
    with_type(out_dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        LaunchShape shape;
        shape.grid = dim3(static_cast<unsigned>(ceil_div(conv.out_channels, 32)));
        shape.block = dim3(32 * kAddSlices);
        shape.shared_bytes = 32 * kAddSlices * sizeof(float);
        launch<add_chunks<T>>(shape, stream, partial, chunks, conv.out_channels,
                              static_cast<T*>(out), out_elems, accumulate);
    });
}

template <class T>
void by_positions(const Conv& conv, const Strides& grad_output, const T* grad, void* out,
                  DType out_dtype, std::int64_t out_elems, bool accumulate, Stream stream) {
    constexpr std::int64_t kElems = kPackElems<T>;
    Positions p{};
    p.strides = grad_output;
    p.channels = conv.out_channels;
    p.count = conv.batch * conv.height.out * conv.width.out;
    p.out_h = static_cast<int>(std::max<std::int64_t>(1, conv.height.out));
    p.out_w = static_cast<int>(std::max<std::int64_t>(1, conv.width.out));
    const auto aligned = [](std::int64_t extent, std::int64_t elems) {
        return extent <= 1 || elems % kElems == 0;
    };
    p.vector = grad_output.channel_elems == 1 && reinterpret_cast<std::uintptr_t>(grad) % 16 == 0 &&
               aligned(conv.batch, grad_output.batch_elems) &&
               aligned(conv.height.out, grad_output.height_elems) &&
               aligned(conv.width.out, grad_output.width_elems);
    const std::int64_t packs = ceil_div(p.channels, kElems);
    p.lanes = static_cast<int>(std::min<std::int64_t>(packs, kThreads));
    const std::int64_t blocks = ceil_div(packs, p.lanes);
    p.chunk = chunk_of(p.count, kThreads / p.lanes * kLoads, blocks);
    const std::int64_t chunks = std::max<std::int64_t>(1, ceil_div(p.count, p.chunk));

    const Scratch partial(static_cast<std::size_t>(chunks * p.channels) * sizeof(float), stream);
    LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(blocks));
    shape.block = dim3(kThreads);
    shape.shared_bytes = kThreads * kElems * sizeof(float);
    launch<sum_positions<T>>(shape, stream, p, grad, static_cast<float*>(partial.data()));
    finish(conv, static_cast<const float*>(partial.data()), chunks, out, out_dtype, out_elems,
           accumulate, stream);
}

template <class T>
void by_lines(const Conv& conv, const Strides& grad_output, const T* grad, void* out,
              DType out_dtype, std::int64_t out_elems, bool accumulate, Stream stream) {
    Lines p{};
    p.strides = grad_output;
    p.channels = conv.out_channels;
    std::int64_t lines = conv.height.out;
    p.length = conv.width.out;
    if (lines == 1 || grad_output.height_elems == p.length * grad_output.width_elems) {
        p.length *= lines;
        lines = 1;
    }
    const std::int64_t pieces = std::max<std::int64_t>(1, ceil_div(p.length, kPieceElems));
    const std::int64_t count = p.length == 0 ? 0 : conv.batch * lines * pieces;
    if (count > INT_MAX / 2)  // lines of an element or two
        return by_positions<T>(conv, grad_output, grad, out, out_dtype, out_elems, accumulate,
                               stream);
    p.lines = static_cast<int>(lines);
    p.pieces = static_cast<int>(pieces);
    p.count = static_cast<int>(count);
    const std::int64_t packs = p.length / kPackElems<T>;
    p.lanes = packs >= 32 ? 32 : packs >= 16 ? 16 : 8;
    const std::int64_t blocks = ceil_div(p.channels, kThreads / p.lanes);
    const std::int64_t piece = std::min(p.length, kPieceElems);  // of which a thread has a part:
    const std::int64_t loads = std::max<std::int64_t>(1, piece / (p.lanes * kPackElems<T>));
    p.chunk = static_cast<int>(chunk_of(count, ceil_div(kLoads, loads), blocks));
    const std::int64_t chunks = std::max<std::int64_t>(1, ceil_div(count, p.chunk));

    const Scratch partial(static_cast<std::size_t>(chunks * p.channels) * sizeof(float), stream);
    LaunchShape shape;
    shape.grid = dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(blocks));
    shape.block = dim3(kThreads);
    launch<sum_lines<T>>(shape, stream, p, grad, static_cast<float*>(partial.data()));
    finish(conv, static_cast<const float*>(partial.data()), chunks, out, out_dtype, out_elems,
           accumulate, stream);
}

}  // namespace

void run_grad_bias(const Conv& conv, const Strides& grad_output, const void* grad, void* out,
                   DType out_dtype, std::int64_t out_elems, bool accumulate, Stream stream) {
    if (conv.out_channels == 0) return;
    with_type(conv.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        // Along the width; a matrix, of one column an image, has only its rows.
        const std::int64_t along = conv.width.out > 1    ? grad_output.width_elems
                                   : conv.height.out > 1 ? grad_output.height_elems
                                                         : grad_output.batch_elems;
        const auto sum = conv.out_channels > 1 &&
                                 std::llabs(grad_output.channel_elems) <= std::llabs(along)
                             ? by_positions<T>
                             : by_lines<T>;
        sum(conv, grad_output, static_cast<const T*>(grad), out, out_dtype, out_elems, accumulate,
            stream);
    });
}

}  // namespace fastconv::cuda

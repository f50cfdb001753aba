// Depthwise convolution: as many groups as channels, M = K / C filters a channel.
//
//   forward      y[p,k]  = sum over r, s of x[h(p,r), k / M] w[k,r,s], + bias, residual, ReLU
//   grad_input   dx[h,c] = sum over m, r, s of dy[p(h,r), c M + m] w[c M + m,r,s], + bias
//   grad_weight  dw[k,r,s] = sum over images and p of dy[p,k] x[h(p,r), k / M]
//
// Floor: input and output once each; R S multiply-adds an output element are far below the card's
// ratio of arithmetic to bandwidth. Channels last and aligned with M = 1, a thread has 16 bytes of
// channels; any other operands go element by element. Weights lie in shared memory as
// (tap, channel), float32, for the channels of a block.
//
// grad_input of stride 1 is a correlation with the kernel turned round; others gather.
//
// Here: what its kernels share: how a block's threads lie over channels and positions, and the taps of
// one position along an axis.
#pragma once

#include "cuda/conv_kernels.h"
#include "cuda/items.cuh"
#include "cuda/ptx.cuh"
#include "cuda/scalar.cuh"
#include "cuda/walk.cuh"

namespace fastconv::cuda {

constexpr int kDepthwiseThreads = 256;

struct DepthwiseAxis {
    int source = 1, out = 1;
    int kernel = 1, stride = 1, dilation = 1, pad = 0;
    int period = 1;     // gathering: taps that meet an element are so many apart,
    int back_step = 1;  // and their outputs so many
};

struct DepthwiseArguments {
    const void* source = nullptr;  // x; grad_output for grad_input
    const void* weight = nullptr;
    void* out = nullptr;  // y; grad_input; grad_weight reads grad_output here
    const void* bias = nullptr;
    const void* residual = nullptr;
    float* partial = nullptr;  // grad_weight: (slices, taps, K)
    Strides source_strides, weight_strides, out_strides, residual_strides;
    DepthwiseAxis height, width;
    int channels = 0;   // that threads run over: K, for grad_input C; in packs
    int multiplier = 1;  // filters a channel
    bool gather = false;   // grad_input by its definition
    bool flipped = false;  // grad_input as a correlation with the kernel turned round
    bool relu = false;
    bool packs = false;  // a thread has 16 bytes of channels; else one
    DType dtype = DType::kFloat32;
    bool lanes_inside = true;  // neighbouring threads have neighbouring channels, not positions
    int lanes = 32;            // packs of channels a block, a power of two
    Divider by_chunks;         // of blocks
    std::uint32_t positions = 0;  // n, row, column or group of columns
    std::uint32_t positions_each = 0;  // a block
    Divider by_rows, by_cols;
    int slices = 1;
};

/// Where a thread stands.
struct DepthwiseThread {
    int chunk, lane, channel;  // of packs; channel = chunk * lanes + lane
    int group, groups;         // of positions
    std::uint32_t block;       // of positions
    bool valid;

    __device__ explicit DepthwiseThread(const DepthwiseArguments& a) {
        std::uint32_t rest = blockIdx.x;
        block = a.by_chunks.split(rest);
        chunk = static_cast<int>(rest);
        groups = kDepthwiseThreads / a.lanes;
        const int thread = static_cast<int>(threadIdx.x);
        lane = a.lanes_inside ? thread % a.lanes : thread / groups;
        group = a.lanes_inside ? thread / a.lanes : thread % groups;
        channel = chunk * a.lanes + lane;
        valid = channel < a.channels;
    }
};

/// Image, row and column (or group of columns) of a position.
__device__ inline Place position_of(const DepthwiseArguments& a, std::uint32_t position) {
    std::uint32_t row = a.by_cols.split(position);
    const std::uint32_t n = a.by_rows.split(row);
    return {static_cast<int>(n), 0, static_cast<int>(row), static_cast<int>(position)};
}

/// Taps first, first + step, ... < kernel of a position meet source elements at, at + at_step, ...
struct DepthwiseTaps {
    int first, step, at, at_step;

    __device__ DepthwiseTaps(const DepthwiseAxis& axis, int position, bool gather) {
        if (!gather) {
            first = 0;
            step = 1;
            at = position * axis.stride - axis.pad;
            at_step = axis.dilation;
            return;
        }
        const int reach = position + axis.pad;
        step = axis.period;
        at_step = -axis.back_step;
        first = 0;
        while (first < step && (reach - first * axis.dilation) % axis.stride != 0) ++first;
        at = (reach - first * axis.dilation) / axis.stride;
        if (first == step) first = axis.kernel;
    }
};

/// kCount floats from shared memory, 16 bytes at a time.
template <int kCount>
__device__ void load_floats(float (&to)[kCount], const float* from) {
    constexpr int kStep = kCount % 4 == 0 ? 4 : 1;
#pragma unroll
    for (int i = 0; i < kCount; i += kStep) {
        const auto pack = *reinterpret_cast<const Pack<float, kStep>*>(from + i);
#pragma unroll
        for (int j = 0; j < kStep; ++j) to[i + j] = pack.value[j];
    }
}

/// kCount elements; zeros where not `inside`.
template <int kCount, class T>
__device__ Item<T, kCount> load_item(const T* from, bool inside) {
    Item<T, kCount> item{};
    if (inside) item = *reinterpret_cast<const Item<T, kCount>*>(from);
    return item;
}

__device__ inline bool within(int position, int size) {
    return static_cast<unsigned>(position) < static_cast<unsigned>(size);
}

}  // namespace fastconv::cuda

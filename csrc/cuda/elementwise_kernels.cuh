// The kernels of elementwise.cu: y = op(a, b), dropout, SGD.
//
// A block takes a tile of kThreads * kLoads neighbouring items: each thread has kLoads independent
// 16-byte loads an operand in flight before it computes. Arrays that lie alike and dense are one row
// of items, with full occupancy; whatever else comes in whole packs pays a few multiplications an item
// for its address; anything else goes one element at a time.
#pragma once

#include "cuda/elementwise.cuh"
#include "cuda/launch.h"
#include "cuda/strided.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 2;  // of each operand
constexpr std::uint32_t kTileItems = kThreads * kLoads;

/// Item u of this thread in its block's tile; exists if below the walk's count. A block takes one tile:
/// more tiles than blocks at once are spread by the hardware, without a last wave of few long blocks.
__device__ inline std::uint32_t item_of(int u) {
    return blockIdx.x * kTileItems + static_cast<std::uint32_t>(u) * kThreads + threadIdx.x;
}

LaunchShape shape_for(const StridedWalk& walk) {
    return {dim3((walk.count + kTileItems - 1) / kTileItems), dim3(kThreads)};
}

// ---- y = op(a, b) -------------------------------------------------------------------------------

struct ElementwiseArguments {
    ElementwiseOp op;
    float parameter;
    bool vector;       // items are 16 bytes
    Operand y, a, b;   // b may be absent
    StridedWalk walk;  // of y, a, b
};

struct DenseArguments {
    ElementwiseOp op;
    float parameter;
    Operand y, a, b;
    std::uint32_t count;  // items
};

template <class T, int kOperands>
__device__ inline void elementwise_dense_of(const DenseArguments& arguments) {
    constexpr int kElems = kItemElems<T>;
    typename Access<T>::Item a[kLoads], b[kLoads];
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
        if (item_of(u) >= arguments.count) continue;
        a[u] = Access<T>::load_once(arguments.a, item_of(u));
        if constexpr (kOperands == 2) b[u] = Access<T>::load_once(arguments.b, item_of(u));
    }
    constexpr bool kCoarse = sizeof(T) == 2;
    with_formula<kOperands>(arguments.op, arguments.parameter, kCoarse, [&](auto formula) {
#pragma unroll
        for (int u = 0; u < kLoads; ++u) {
            if (item_of(u) >= arguments.count) continue;
            float y[kElems];
#pragma unroll
            for (int i = 0; i < kElems; ++i)
                y[i] = formula(a[u].at(i),
                               kOperands == 2 ? b[u].at(i) : 0.0f);
            Access<T>::store(arguments.y, item_of(u), y);
        }
    });
}

// 37 registers with one operand, 32 with two: 6 and 8 blocks are resident on a multiprocessor of 2048
// threads, each thread with 32 bytes an operand in flight. 4 is what one of 1024 threads (7.5) can
// promise.
template <int kOperands>
__global__ void __launch_bounds__(kThreads, 4) elementwise_dense(const DenseArguments arguments) {
    with_stored_type(arguments.y.dtype, [&](auto tag) {
        elementwise_dense_of<typename decltype(tag)::type, kOperands>(arguments);
    });
}

template <class T>
__device__ inline void elementwise_of(const ElementwiseArguments& arguments) {
    constexpr int kElems = kItemElems<T>;
    using Item = typename Access<T>::Item;
    const std::uint32_t count = arguments.walk.count;
    const bool two = arguments.b.data != nullptr;
    std::int64_t at[kLoads][3];
    Item a[kLoads], b[kLoads];
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
        if (item_of(u) >= count) continue;
        locate(arguments.walk, item_of(u), at[u]);
        a[u] = Access<T>::load(arguments.a, at[u][1]);
        b[u] = two ? Access<T>::load(arguments.b, at[u][2]) : a[u];
    }
    const bool coarse = arguments.y.dtype != DType::kFloat32;
    with_formula<0>(arguments.op, arguments.parameter, coarse, [&](auto formula) {
#pragma unroll
        for (int u = 0; u < kLoads; ++u) {
            if (item_of(u) >= count) continue;
            float y[kElems];
#pragma unroll
            for (int i = 0; i < kElems; ++i)
                y[i] = formula(a[u].at(i), b[u].at(i));
            Access<T>::store(arguments.y, at[u][0], y);
        }
    });
}

__global__ void __launch_bounds__(kThreads, 4) elementwise(const ElementwiseArguments arguments) {
    with_items(arguments.y.dtype, arguments.vector,
               [&](auto tag) { elementwise_of<typename decltype(tag)::type>(arguments); });
}

// ---- dropout ------------------------------------------------------------------------------------

struct DropoutArguments {
    Operand y, x;
    StridedWalk walk;            // of y, x and the position, which counts elements
    std::int64_t position_step;  // between an item's elements
    bool vector;                 // items are 16 bytes
    // Not 0: the walk's items are the first of four, so far apart in y and x, whose positions follow each
    // other from a multiple of four on (channels last).
    std::int64_t four_items[2];
    std::uint64_t seed;
    std::uint32_t threshold;
    float scale;  // 0 where all are dropped

    __device__ float apply(std::uint32_t word, float value) const {
        return word >= threshold && scale != 0 ? value * scale : 0.0f;
    }
};

template <class T>
__device__ inline void draw(const DropoutArguments& arguments, std::int64_t position,
                            const float (&x)[kItemElems<T>], float (&y)[kItemElems<T>]) {
    constexpr int kElems = kItemElems<T>;
    const std::int64_t step = arguments.position_step;
    const bool fours = kElems % 4 == 0 && step == 1 && position % 4 == 0;
    Words words{};
#pragma unroll
    for (int i = 0; i < kElems; ++i) {
        const auto element = static_cast<std::uint64_t>(position + i * step);
        if (!fours || i % 4 == 0) words = philox(element / 4, arguments.seed);
        const std::uint32_t word = fours ? words.word[i % 4] : words.pick(element % 4);
        y[i] = arguments.apply(word, x[i]);
    }
}

template <class T>
__device__ inline void dropout_of(const DropoutArguments& arguments) {
    constexpr int kElems = kItemElems<T>;
    const std::uint32_t count = arguments.walk.count;
    std::int64_t at[kLoads][3];
    typename Access<T>::Item item[kLoads];
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
        if (item_of(u) >= count) continue;
        locate(arguments.walk, item_of(u), at[u]);
        item[u] = Access<T>::load(arguments.x, at[u][1]);
    }
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
        if (item_of(u) >= count) continue;
        float x[kElems], y[kElems];
#pragma unroll
        for (int i = 0; i < kElems; ++i) x[i] = item[u].at(i);
        draw<T>(arguments, at[u][2], x, y);
        Access<T>::store(arguments.y, at[u][0], y);
    }
}

// A counter's four words go to four items: one counter for four elements where neighbours in memory, which
// are channels, each have another.
template <class T>
__device__ inline void dropout_fours_of(const DropoutArguments& arguments) {
    constexpr int kElems = kItemElems<T>;
#pragma unroll 1
    for (int u = 0; u < kLoads; ++u) {
        if (item_of(u) >= arguments.walk.count) continue;
        std::int64_t at[3];
        locate(arguments.walk, item_of(u), at);
        typename Access<T>::Item x[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
            x[j] = Access<T>::load(arguments.x, at[1] + j * arguments.four_items[1]);
        Pack<T, kElems> y[4];
#pragma unroll
        for (int i = 0; i < kElems; ++i) {
            const auto first = static_cast<std::uint64_t>(at[2] + i * arguments.position_step);
            const Words words = philox(first / 4, arguments.seed);
#pragma unroll
            for (int j = 0; j < 4; ++j)
                y[j].value[i] = from_float<T>(arguments.apply(words.word[j], x[j].at(i)));
        }
#pragma unroll
        for (int j = 0; j < 4; ++j)
            store_pack(static_cast<T*>(arguments.y.data) +
                           (at[0] + j * arguments.four_items[0]) * kElems,
                       y[j]);
    }
}

__global__ void __launch_bounds__(kThreads, 4) dropout(const DropoutArguments arguments) {
    if (arguments.four_items[0] != 0)
        return with_stored_type(arguments.y.dtype, [&](auto tag) {
            dropout_fours_of<typename decltype(tag)::type>(arguments);
        });
    with_items(arguments.y.dtype, arguments.vector,
               [&](auto tag) { dropout_of<typename decltype(tag)::type>(arguments); });
}

// ---- SGD ----------------------------------------------------------------------------------------

struct SgdArguments {
    Operand parameter, grad, velocity, copy;  // the last two may be absent
    StridedWalk walk;
    float minus_rate, momentum, weight_decay;
    bool nesterov;
    bool vector;  // items are kSgdPack elements
};

constexpr int kSgdPack = 4;  // 16 bytes of float32: `grad` and `copy` may be 8

template <class T, int kElems>
__device__ inline void sgd_of(const SgdArguments& by) {
    const std::uint32_t count = by.walk.count;
    const bool moves = by.velocity.data != nullptr;
    std::int64_t at[kLoads][4];
    typename Access<float, kElems>::Item parameter[kLoads], velocity[kLoads];
    typename Access<T, kElems>::Item grad[kLoads];
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
        if (item_of(u) >= count) continue;
        locate(by.walk, item_of(u), at[u]);
        parameter[u] = Access<float, kElems>::load(by.parameter, at[u][0]);
        grad[u] = Access<T, kElems>::load(by.grad, at[u][1]);
        if (moves) velocity[u] = Access<float, kElems>::load(by.velocity, at[u][2]);
    }
#pragma unroll
    for (int u = 0; u < kLoads; ++u) {
        if (item_of(u) >= count) continue;
        float p[kElems], v[kElems];
#pragma unroll
        for (int i = 0; i < kElems; ++i) {
            p[i] = parameter[u].at(i);
            v[i] = moves ? velocity[u].at(i) : 0.0f;
            float g = grad[u].at(i);
            if (by.weight_decay != 0) g = fmaf(p[i], by.weight_decay, g);
            if (moves) {
                v[i] = __fadd_rn(__fmul_rn(v[i], by.momentum), g);
                g = by.nesterov ? fmaf(v[i], by.momentum, g) : v[i];
            }
            p[i] = fmaf(g, by.minus_rate, p[i]);
        }
        Access<float, kElems>::store(by.parameter, at[u][0], p);
        if (moves) Access<float, kElems>::store(by.velocity, at[u][2], v);
        if (by.copy.data) store_neighbours(by.copy, at[u][3] * kElems, p);
    }
}

__global__ void __launch_bounds__(kThreads, 4) sgd(const SgdArguments arguments) {
    with_stored_type(arguments.grad.dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if (arguments.vector) return sgd_of<T, kSgdPack>(arguments);
        sgd_of<T, 1>(arguments);
    });
}

}  // namespace
}  // namespace fastconv::cuda

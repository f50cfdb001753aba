// Element-wise operations, dropout and SGD over arrays of any strides, each in one pass.
//
// A block takes a tile of kThreads * kLoads neighbouring items: each thread has kLoads independent
// 16-byte loads an operand in flight before it computes. Arrays that lie alike and dense are one row
// of items, with full occupancy; whatever else comes in whole packs pays a few multiplications an item
// for its address; anything else goes one element at a time.
//
//     dropout  y[i] = x[i] * scale where word i mod 4 of Philox4x32-10(counter i / 4, key seed) is at
//              least threshold, else 0; i in C order of the shape
//     sgd      g += decay p;  v = momentum v + g;  p -= rate (nesterov ? g + momentum v : v)
//              in PyTorch's order, rounded where the CPU rounds
// Bytes moved, per byte of the array: relu and its like 2, with two operands 3; dropout 2.
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
    Operand y, a, b;  // b may be absent
    StridedWalk walk;        // of y, a, b
};

struct DenseArguments {
    ElementwiseOp op;
    float parameter;
    Operand y, a, b;
    std::uint32_t count;  // items
};

// 27 to 37 registers: 6 to 8 blocks are resident on a multiprocessor of 2048 threads, each thread with
// 32 bytes an operand in flight. 4 is what one of 1024 threads (7.5) can promise.
template <class T, int kOperands>
__global__ void __launch_bounds__(kThreads, 4) elementwise_dense(DenseArguments arguments) {
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

template <class T>
__global__ void __launch_bounds__(kThreads, 4) elementwise(ElementwiseArguments arguments) {
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

// ---- dropout ------------------------------------------------------------------------------------

struct DropoutArguments {
    Operand y, x;
    StridedWalk walk;               // of y, x and the position, which counts elements
    std::int64_t position_step;  // between an item's elements
    std::uint64_t seed;
    std::uint32_t threshold;
    float scale;  // 0 where all are dropped
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
        const bool kept = word >= arguments.threshold && arguments.scale != 0;
        y[i] = kept ? x[i] * arguments.scale : 0.0f;
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4) dropout(DropoutArguments arguments) {
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

// ---- SGD ----------------------------------------------------------------------------------------

struct SgdArguments {
    Operand parameter, grad, velocity, copy;  // the last two may be absent
    StridedWalk walk;
    float minus_rate, momentum, weight_decay;
    bool nesterov;
};

/// kElems elements of an operand whose dtype is known at run time only.
template <int kElems>
__device__ inline void store_as(const Operand& to, std::int64_t at, const float (&value)[kElems]) {
    switch (to.dtype) {
        case DType::kFloat16: return Access<Half, kElems>::store(to, at, value);
        case DType::kBFloat16: return Access<BFloat16, kElems>::store(to, at, value);
        default: return Access<float, kElems>::store(to, at, value);
    }
}

// The items' elements are 4, 16 bytes of float32: `grad` and `copy` may be 8.
template <class T, int kElems>
__global__ void __launch_bounds__(kThreads, 4) sgd(SgdArguments arguments) {
    const std::uint32_t count = arguments.walk.count;
    const SgdArguments& by = arguments;
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
        if (by.copy.data) store_as<kElems>(by.copy, at[u][3], p);
    }
}

/// Items of every operand one after the other, from the walk's first on.
void run_dense(const ElementwiseArguments& by, DType dtype, Stream stream) {
    const auto from = [&](const Operand& operand, int k) {
        auto* const data = static_cast<unsigned char*>(operand.data);
        return Operand{data ? data + by.walk.first[k] * 16 : nullptr, operand.dtype};
    };
    const DenseArguments arguments{by.op, by.parameter, from(by.y, 0), from(by.a, 1),
                                   from(by.b, 2), by.walk.count};
    with_type(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        const LaunchShape shape = shape_for(by.walk);
        if (by.b.data) return launch<elementwise_dense<T, 2>>(shape, stream, arguments);
        launch<elementwise_dense<T, 1>>(shape, stream, arguments);
    });
}

}  // namespace

void run_elementwise(ElementwiseOp op, const Tensor& a, const Tensor* b, const Tensor& y,
                     double parameter, Stream stream) {
    ElementwiseArguments arguments{op, static_cast<float>(parameter), {}, {}, {}, {}};
    Layout layout = b ? layout_of({&y, &a, b}) : layout_of({&y, &a});
    arguments.y = anchored(y, layout, 0);
    arguments.a = anchored(a, layout, 1);
    if (b) arguments.b = anchored(*b, layout, 2);
    const int pack = pack_elems_of(y.dtype);
    const bool vector = layout.comes_in_packs(pack, layout.operands) &&
                        is_aligned(arguments.y, pack) && is_aligned(arguments.a, pack) &&
                        is_aligned(arguments.b, pack);
    if (vector) layout.in_packs(pack, layout.operands);
    bool dense = vector && layout.rank == 1;
    for (int k = 0; k < layout.operands; ++k) dense = dense && layout.elems[k][0] == 1;
    for_pieces(layout, [&](const Layout& piece) {
        arguments.walk = walk_of(piece);
        if (dense) return run_dense(arguments, y.dtype, stream);
        with_items(y.dtype, vector, [&](auto tag) {
            launch<elementwise<typename decltype(tag)::type>>(shape_for(arguments.walk), stream,
                                                              arguments);
        });
    });
}

void run_dropout(const Tensor& x, const Tensor& y, std::uint64_t seed, std::uint64_t threshold,
                 double scale, Stream stream) {
    DropoutArguments arguments{};
    arguments.seed = seed;
    const bool drops_all = threshold > 0xFFFFFFFFu;
    arguments.threshold = static_cast<std::uint32_t>(threshold);
    arguments.scale = drops_all ? 0.0f : static_cast<float>(scale);
    Tensor position = y;  // its strides are those of C order; it has no data
    position.data = nullptr;
    std::int64_t step = 1;
    for (int d = y.rank - 1; d >= 0; --d) {
        position.elems[d] = step;
        step *= y.size[d];
    }
    Layout layout = layout_of({&y, &x, &position});
    arguments.y = anchored(y, layout, 0);
    arguments.x = anchored(x, layout, 1);
    arguments.position_step = layout.inner_elems(2);
    const int pack = pack_elems_of(y.dtype);
    const bool vector = layout.comes_in_packs(pack, 2) && is_aligned(arguments.y, pack) &&
                        is_aligned(arguments.x, pack);
    if (vector) layout.in_packs(pack, 2);
    for_pieces(layout, [&](const Layout& piece) {
        arguments.walk = walk_of(piece);
        with_items(y.dtype, vector, [&](auto tag) {
            launch<dropout<typename decltype(tag)::type>>(shape_for(arguments.walk), stream,
                                                          arguments);
        });
    });
}

void run_sgd(const Tensor& parameter, const Tensor& grad, const Tensor* velocity,
             const Tensor* copy, const SgdStep& step, Stream stream) {
    SgdArguments arguments{};
    arguments.minus_rate = -static_cast<float>(step.rate);
    arguments.momentum = static_cast<float>(step.momentum);
    arguments.weight_decay = static_cast<float>(step.weight_decay);
    arguments.nesterov = step.nesterov;
    // What is absent walks like the parameter.
    Layout layout = layout_of({&parameter, &grad, velocity ? velocity : &parameter,
                               copy ? copy : &parameter});
    arguments.parameter = anchored(parameter, layout, 0);
    arguments.grad = anchored(grad, layout, 1);
    if (velocity) arguments.velocity = anchored(*velocity, layout, 2);
    if (copy) arguments.copy = anchored(*copy, layout, 3);
    constexpr int kPack = 4;
    const bool vector = layout.comes_in_packs(kPack, layout.operands) &&
                        is_aligned(arguments.parameter, kPack) &&
                        is_aligned(arguments.grad, kPack) &&
                        is_aligned(arguments.velocity, kPack) && is_aligned(arguments.copy, kPack);
    if (vector) layout.in_packs(kPack, layout.operands);
    for_pieces(layout, [&](const Layout& piece) {
        arguments.walk = walk_of(piece);
        with_type(grad.dtype, [&](auto tag) {
            using T = typename decltype(tag)::type;
            const LaunchShape shape = shape_for(arguments.walk);
            if (vector) return launch<sgd<T, kPack>>(shape, stream, arguments);
            launch<sgd<T, 1>>(shape, stream, arguments);
        });
    });
}

}  // namespace fastconv::cuda

// A row of logits by a team of threads, 4 to 32 lanes of a warp or a block: what softmax and
// cross-entropy share.
//
// A row is read from memory once. Up to kRowLoads items a thread it stays in registers; longer ones
// are found in L1 by the passes for the sum and the result, up to some thousands of classes. fmaxf
// drops a NaN beside a number; it comes back with the sum, where its exponential is NaN, as on the CPU.
#pragma once

#include <cmath>

#include "cuda/launch.h"
#include "cuda/reduce.cuh"
#include "cuda/strided.cuh"

namespace fastconv::cuda {

constexpr int kRowThreads = 256;
constexpr int kRowLoads = 4;

/// Rows of `length` items, `elems[k]` items apart in operand k; walk: of the rows.
struct Rows {
    StridedWalk walk;
    std::uint32_t length = 0;
    std::int64_t elems[3] = {};
    int team = kWarp;     // threads of a row: a power of two up to kWarp, or kRowThreads
    bool vector = false;  // items are 16 bytes

    LaunchShape shape() const {
        const auto abreast = static_cast<std::uint32_t>(kRowThreads / team);
        return {dim3((walk.count + abreast - 1) / abreast), dim3(kRowThreads),
                sizeof(float) * (kRowThreads / kWarp)};
    }
};

/// The threads of one row and what they join.
struct Team {
    int size, rank;
    std::uint32_t row;  // beyond the end: the last one again, for its lanes to take part
    bool exists;

    __device__ explicit Team(const Rows& rows) : size(rows.team) {
        const auto thread = static_cast<int>(threadIdx.x);
        const auto abreast = static_cast<std::uint32_t>(kRowThreads / size);
        rank = thread % size;
        row = blockIdx.x * abreast + static_cast<std::uint32_t>(thread / size);
        exists = row < rows.walk.count;
        if (!exists) row = rows.walk.count - 1;
    }

    /// join(a, b) over the team, in every thread; `value` is joined within each warp already.
    template <class Join>
    __device__ float across(float value, const Join& join) const {
        if (size <= kWarp) return value;
        auto* const shared = reinterpret_cast<float*>(ptx::shared_memory());  // one a warp
        __syncthreads();  // who still reads the last result
        if (rank % kWarp == 0) shared[rank / kWarp] = value;
        __syncthreads();
        value = shared[0];
        for (int w = 1; w < kRowThreads / kWarp; ++w) value = join(value, shared[w]);
        return value;
    }
    __device__ int lanes() const { return size < kWarp ? size : kWarp; }
    __device__ float sum(float value) const {
        return across(warp_sum(value, lanes()), [](float a, float b) { return a + b; });
    }
    __device__ float max(float value) const {
        return across(warp_max(value, lanes()), [](float a, float b) { return fmaxf(a, b); });
    }

    /// body(index) of this thread's items, kRowLoads of them independent.
    template <class Body>
    __device__ void for_items(std::uint32_t length, const Body& body) const {
        const auto step = static_cast<std::uint32_t>(size);
#pragma unroll kRowLoads
        for (auto i = static_cast<std::uint32_t>(rank); i < length; i += step) body(i);
    }
};

/// exp(x). `coarse`: two instructions, within 2^-17 of itself for x above -88, 0 below, for results that
/// are rounded to 16 bits.
__device__ inline float exponential(float x, bool coarse) {
    constexpr float kLog2E = 1.44269504f;
    return coarse ? ptx::exp2_approx(kLog2E * x) : expf(x);
}

/// A row's items of one thread, where they are at most kRowLoads: all loaded before the first is used.
template <class T>
struct RowItems {
    typename Access<T>::Item item[kRowLoads];
    std::uint32_t rank, step, length;

    __device__ static bool fit(const Rows& rows) {
        return rows.length <= kRowLoads * static_cast<std::uint32_t>(rows.team);
    }
    /// What does not exist is the last item again, so that no load waits for a condition.
    __device__ RowItems(const Team& team, const Operand& from, std::int64_t at, std::int64_t elems,
                        std::uint32_t length_)
        : rank(static_cast<std::uint32_t>(team.rank)), step(static_cast<std::uint32_t>(team.size)),
          length(length_) {
#pragma unroll
        for (int u = 0; u < kRowLoads; ++u) {
            const std::uint32_t i = exists(u) ? index(u) : length - 1;
            item[u] = Access<T>::load_once(from, at + i * elems);
        }
    }
    __device__ std::uint32_t index(int u) const {
        return rank + static_cast<std::uint32_t>(u) * step;
    }
    __device__ bool exists(int u) const { return index(u) < length; }
};

/// Maximum and sum of exp(x - maximum) of a row.
struct RowSums {
    float maximum, exponentials;
};

template <class T>
__device__ inline RowSums row_sums(const Team& team, const Operand& x, std::int64_t at,
                                   std::int64_t elems, std::uint32_t length, bool coarse) {
    constexpr int kElems = kItemElems<T>;
    float top = -INFINITY;
    team.for_items(length, [&](std::uint32_t i) {
        const auto item = Access<T>::load(x, at + i * elems);
#pragma unroll
        for (int j = 0; j < kElems; ++j) top = fmaxf(top, item.at(j));
    });
    top = team.max(top);
    float sum = 0;
    team.for_items(length, [&](std::uint32_t i) {
        const auto item = Access<T>::load(x, at + i * elems);
#pragma unroll
        for (int j = 0; j < kElems; ++j) sum += exponential(item.at(j) - top, coarse);
    });
    return {top, team.sum(sum)};
}

/// Cuts tensors into rows along `axis`, all but their walk; operands are anchored.
inline void cut_rows(std::initializer_list<const Tensor*> tensors, int axis, bool may_turn,
                     Rows& rows, Layout& layout, Operand* operands) {
    const Tensor& first = **tensors.begin();
    const std::int64_t length = first.size[axis];
    const int pack = item_elems_of(first.dtype, true);
    layout = layout_of(tensors, axis, may_turn);
    bool vector = length % pack == 0;
    int k = 0;
    for (const Tensor* tensor : tensors) {
        rows.elems[k] = length == 1 ? 1 : tensor->elems[axis];
        operands[k] = anchored(*tensor, layout, k);
        vector = vector && rows.elems[k] == 1 && is_aligned(operands[k], pack);
        for (int d = 0; d < layout.rank; ++d) vector = vector && layout.elems[k][d] % pack == 0;
        ++k;
    }
    if (length > kMaxItems) throw std::invalid_argument("softmax: more than 2^31 classes");
    rows.length = static_cast<std::uint32_t>(vector ? length / pack : length);
    for (int i = 0; vector && i < k; ++i)
        for (int d = 0; d < layout.rank; ++d) layout.elems[i][d] /= pack;
    // Up to 4 items a lane, in a full warp up to 16; where there are few rows, a block for each.
    rows.team = 4;
    while (rows.team < kWarp && rows.length > 4 * static_cast<std::uint32_t>(rows.team))
        rows.team *= 2;
    const std::int64_t warps = std::int64_t{device(current_device()).multiprocessors} * 8;
    const bool few = layout.count() < warps && rows.length > 4 * kWarp;
    if (rows.length > 16 * kWarp || few) rows.team = kRowThreads;
    rows.vector = vector;
}

}  // namespace fastconv::cuda

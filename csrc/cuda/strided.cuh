// A Layout on the device: where item i of each operand is. The index is taken apart by
// multiplications.
#pragma once

#include <cstdint>

#include "cuda/items.cuh"
#include "cuda/layout.h"
#include "cuda/walk.cuh"  // Divider

namespace fastconv::cuda {

struct StridedWalk {
    int rank = 0;
    std::uint32_t count = 0;  // items, at most kMaxItems
    Divider size[kMaxRank];
    std::int64_t first[kMaxOperands] = {};  // offset of item 0; offsets count items
    std::int64_t elems[kMaxOperands][kMaxRank] = {};
};

inline StridedWalk walk_of(const Layout& layout) {
    StridedWalk walk;
    walk.rank = layout.rank;
    walk.count = static_cast<std::uint32_t>(layout.count());
    for (int d = 0; d < layout.rank; ++d)
        walk.size[d] = Divider(std::max<std::int64_t>(layout.size[d], 1));
    for (int k = 0; k < layout.operands; ++k) {
        walk.first[k] = layout.first[k];
        for (int d = 0; d < layout.rank; ++d) walk.elems[k][d] = layout.elems[k][d];
    }
    return walk;
}

/// Offsets of item `item` of the first kOperands operands.
template <int kOperands>
__device__ inline void locate(const StridedWalk& walk, std::uint32_t item,
                              std::int64_t (&at)[kOperands]) {
#pragma unroll
    for (int k = 0; k < kOperands; ++k) at[k] = walk.first[k];
#pragma unroll 1
    for (int d = walk.rank - 1; d > 0; --d) {
        const std::uint32_t rest = walk.size[d].split(item);
        const std::int64_t index = item;
#pragma unroll
        for (int k = 0; k < kOperands; ++k) at[k] += index * walk.elems[k][d];
        item = rest;
    }
#pragma unroll
    for (int k = 0; k < kOperands; ++k) at[k] += std::int64_t{item} * walk.elems[k][0];
}

/// `tensor` from where the walk begins; the layout's operand k begins there from now on.
inline Operand anchored(const Tensor& tensor, Layout& layout, int k) {
    auto* data = static_cast<unsigned char*>(tensor.data);
    if (data) data += layout.first[k] * element_bytes_of(tensor.dtype);
    layout.first[k] = 0;
    return {data, tensor.dtype};
}

/// Whether items of `pack` elements are aligned to their size; what is not there is.
inline bool is_aligned(const Operand& operand, int pack) {
    const auto address = reinterpret_cast<std::uintptr_t>(operand.data);
    return address % static_cast<std::uintptr_t>(pack * element_bytes_of(operand.dtype)) == 0;
}

}  // namespace fastconv::cuda

// How a few arrays of one shape lie in memory, so that one walk serves them all. Host-only.
//
// A Layout sorts the dimensions by the first operand's strides, turns its reversed ones around and
// merges what every operand has evenly spaced: arrays that lie alike and dense, in C order, channels
// last or any other, become one dimension. in_packs() then makes an item of several neighbours.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <utility>

#include "core/tensor.h"

namespace fastconv::cuda {

constexpr int kMaxOperands = 4;

struct Layout {
    int operands = 0;
    int rank = 0;
    std::int64_t size[kMaxRank] = {};
    std::int64_t first[kMaxOperands] = {};  // offset of the element where the walk begins
    std::int64_t elems[kMaxOperands][kMaxRank] = {};

    std::int64_t count() const {
        std::int64_t product = 1;
        for (int d = 0; d < rank; ++d) product *= size[d];
        return product;
    }
    std::int64_t inner_elems(int operand) const { return rank ? elems[operand][rank - 1] : 0; }

    /// Whether inner neighbours of the first `among` operands are neighbours in memory and come in
    /// whole packs.
    bool comes_in_packs(int pack, int among) const {
        if (rank == 0 || size[rank - 1] % pack != 0) return false;
        for (int k = 0; k < among; ++k) {
            if (elems[k][rank - 1] != 1) return false;
            for (int d = 0; d + 1 < rank; ++d)
                if (elems[k][d] % pack != 0) return false;
        }
        return true;
    }

    /// Makes `pack` inner neighbours an item; operands from `among` on keep counting elements.
    void in_packs(int pack, int among) {
        size[rank - 1] /= pack;
        for (int k = 0; k < operands; ++k) {
            if (k >= among) elems[k][rank - 1] *= pack;
            for (int d = 0; d + 1 < rank && k < among; ++d) elems[k][d] /= pack;
        }
    }

    void remove(int d) {
        for (int e = d; e + 1 < rank; ++e) {
            size[e] = size[e + 1];
            for (int k = 0; k < operands; ++k) elems[k][e] = elems[k][e + 1];
        }
        --rank;
    }

    bool merges(int d) const {  // dimension d with d + 1
        for (int k = 0; k < operands; ++k)
            if (elems[k][d] != elems[k][d + 1] * size[d + 1]) return false;
        return true;
    }
};

inline void sort_and_merge(Layout& layout, bool may_turn) {
    for (int d = layout.rank - 1; d >= 0; --d)
        if (layout.size[d] == 1) layout.remove(d);
    for (int d = 0; d < layout.rank; ++d) {
        if (!may_turn || layout.elems[0][d] >= 0 || layout.size[d] == 0) continue;
        for (int k = 0; k < layout.operands; ++k) {
            layout.first[k] += (layout.size[d] - 1) * layout.elems[k][d];
            layout.elems[k][d] = -layout.elems[k][d];
        }
    }
    for (int d = 1; d < layout.rank; ++d)  // insertion keeps equal strides in their order
        for (int e = d; e > 0 && layout.elems[0][e - 1] < layout.elems[0][e]; --e) {
            std::swap(layout.size[e - 1], layout.size[e]);
            for (int k = 0; k < layout.operands; ++k)
                std::swap(layout.elems[k][e - 1], layout.elems[k][e]);
        }
    for (int d = layout.rank - 2; d >= 0; --d) {
        if (!layout.merges(d)) continue;
        layout.size[d + 1] *= layout.size[d];
        layout.remove(d);
    }
}

/// The layout of all dimensions but `axis` (none: -1); the first operand decides the order.
/// `may_turn`: a dimension may be walked backwards.
inline Layout layout_of(std::initializer_list<const Tensor*> tensors, int axis = -1,
                        bool may_turn = true) {
    Layout layout;
    for (const Tensor* tensor : tensors) {
        layout.rank = 0;
        for (int d = 0; d < tensor->rank; ++d) {
            if (d == axis) continue;
            layout.size[layout.rank] = tensor->size[d];
            layout.elems[layout.operands][layout.rank++] = tensor->elems[d];
        }
        ++layout.operands;
    }
    sort_and_merge(layout, may_turn);
    return layout;
}

constexpr std::int64_t kMaxItems = (std::int64_t{1} << 31) - 1;

/// run(layout) of pieces with 1 .. kMaxItems items.
template <class Run>
void for_pieces(const Layout& layout, const Run& run) {
    const std::int64_t count = layout.count();
    if (count == 0) return;
    if (count <= kMaxItems) return run(layout);
    const int d = static_cast<int>(
        std::max_element(layout.size, layout.size + layout.rank) - layout.size);
    Layout low = layout, high = layout;
    low.size[d] = layout.size[d] / 2;
    high.size[d] -= low.size[d];
    for (int k = 0; k < layout.operands; ++k) high.first[k] += low.size[d] * layout.elems[k][d];
    for_pieces(low, run);
    for_pieces(high, run);
}

}  // namespace fastconv::cuda

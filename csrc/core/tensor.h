// An array of any rank as its memory sees it: what element-wise operations, softmax and normalization
// take. Strides are in elements, of any sign; a stride of 0 repeats an element.
#pragma once

#include <cstdint>

#include "core/problem.h"

namespace fastconv {

constexpr int kMaxRank = 16;

struct Tensor {
    void* data = nullptr;
    DType dtype = DType::kFloat32;
    int rank = 0;
    std::int64_t size[kMaxRank] = {};
    std::int64_t elems[kMaxRank] = {};

    std::int64_t count() const {
        std::int64_t product = 1;
        for (int d = 0; d < rank; ++d) product *= size[d];
        return product;
    }
};

/// `x` at index 0 of `axis`.
inline Tensor without_axis(const Tensor& x, int axis) {
    Tensor rest = x;
    for (int d = axis; d + 1 < x.rank; ++d) {
        rest.size[d] = x.size[d + 1];
        rest.elems[d] = x.elems[d + 1];
    }
    --rest.rank;
    return rest;
}

}  // namespace fastconv

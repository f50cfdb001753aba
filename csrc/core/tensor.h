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

}  // namespace fastconv

// NumPy arrays of any rank as Tensors.
#pragma once

#include <stdexcept>
#include <string>

#include "bindings/array.h"
#include "core/tensor.h"

namespace fastconv {

inline Tensor tensor_of(const py::array& array) {
    if (array.ndim() > kMaxRank)
        throw std::invalid_argument("an array has " + std::to_string(array.ndim()) +
                                    " dimensions; at most " + std::to_string(kMaxRank) + " work");
    Tensor tensor;
    tensor.data = data_of(array);
    tensor.dtype = dtype_of(array);
    tensor.rank = static_cast<int>(array.ndim());
    for (int d = 0; d < tensor.rank; ++d) {
        const bool steps = array.shape(d) > 1 && array.size() > 0;
        if (steps && array.strides(d) % array.itemsize() != 0)
            throw std::invalid_argument("_core: strides split an element");
        tensor.size[d] = array.shape(d);
        tensor.elems[d] = array.strides(d) / array.itemsize();
    }
    return tensor;
}

/// As tensor_of, of an array that will be written.
inline Tensor writable_tensor_of(py::array& array) {
    writable_data_of(array);  // throws if it is not
    return tensor_of(array);
}

/// Throws unless both have the same shape and dtype.
inline void require_alike(const Tensor& a, const Tensor& b) {
    bool same = a.rank == b.rank && a.dtype == b.dtype;
    for (int d = 0; same && d < a.rank; ++d) same = a.size[d] == b.size[d];
    if (!same) throw std::invalid_argument("_core: arrays of one shape and dtype expected");
}

}  // namespace fastconv

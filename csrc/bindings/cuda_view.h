// Views of CUDA arrays as NumPy makes them: indexing, transposing, reshaping. Host arithmetic on
// shapes and strides; no memory is touched.
#pragma once

#include <optional>
#include <vector>

#include "bindings/cuda_array.h"

namespace fastconv {

/// array[key] for integers, slices, None and Ellipsis.
CudaArray view_of(const CudaArray& array, const py::object& key);
/// Dimensions in another order; empty `axes`: reversed. Negative axes count from the end.
CudaArray transposed(const CudaArray& array, std::vector<std::int64_t> axes);
/// Another shape over the same memory, one size may be -1; nullopt where the strides do not allow it.
/// `shape` is completed. Throws where the sizes do not fit.
std::optional<CudaArray> reshaped(const CudaArray& array, std::vector<std::int64_t>& shape);
/// `array` with the strides of `shape` broadcast; throws where it does not fit.
CudaArray broadcast(const CudaArray& array, const std::vector<std::int64_t>& shape);
/// "(2, 3)", as Python prints a tuple.
std::string shape_text(const std::vector<std::int64_t>& shape);

}  // namespace fastconv

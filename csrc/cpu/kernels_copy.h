// Moving a tile of a tensor from one order to another: packing, gathering and scattering.
#pragma once

#include <cstdint>

namespace fastconv::cpu {

/// A matrix seen through strides: element (r, c) at data[r * row_elems + c * col_elems].
template <class T>
struct MatrixView {
    T* data = nullptr;
    std::int64_t row_elems = 0;
    std::int64_t col_elems = 1;
};

template <class T>
struct CopyKernels {
    /// to(r, c) = from(r, c) for rows x cols; a transpose where the unit strides differ. Bits are
    /// kept, NaN payloads too. The two must not overlap.
    void (*copy)(std::int64_t rows, std::int64_t cols, MatrixView<const T> from, MatrixView<T> to);
};

}  // namespace fastconv::cpu

// NumPy arrays as views: a pointer, shape and strides, never a copy. The Python layer has validated
// everything (python/fastconv/ops); what is checked here again only keeps a wrong caller from memory
// that is not his.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "core/problem.h"

namespace fastconv {

namespace py = pybind11;

inline DType dtype_of(const py::array& array) {
    const char kind = array.dtype().kind();
    if (kind == 'f' && array.itemsize() == 4) return DType::kFloat32;
    if (kind == 'f' && array.itemsize() == 8) return DType::kFloat64;
    throw std::invalid_argument("_core: only float32 and float64 arrays");
}

inline void* data_of(const py::array& array) { return const_cast<void*>(array.data()); }

/// Data of an array that will be written; `nullptr` never.
inline void* writable_data_of(py::array& array) { return array.mutable_data(); }

inline void require_rank(const py::array& array, py::ssize_t rank) {
    if (array.ndim() != rank) throw std::invalid_argument("_core: array of another rank expected");
}

/// Strides of an (N, C, H, W) or (K, C, R, S) array in elements.
inline Strides strides_of(const py::array& array) {
    require_rank(array, 4);
    const py::ssize_t size = array.itemsize();
    const py::ssize_t* bytes = array.strides();
    // Where there is no neighbour to step to, a stride may be anything.
    for (int i = 0; i < 4; ++i)
        if (bytes[i] % size != 0 && array.shape(i) > 1 && array.size() > 0)
            throw std::invalid_argument("_core: strides split an element");
    return {bytes[0] / size, bytes[1] / size, bytes[2] / size, bytes[3] / size};
}

}  // namespace fastconv

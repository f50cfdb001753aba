// Dtypes of CUDA arrays as Python objects and back. NumPy has no bfloat16: fastconv.cuda.bfloat16 is
// ml_dtypes' where that is installed, else a small object with name, itemsize and kind.
#pragma once

#include <pybind11/pybind11.h>

#include "core/problem.h"

namespace fastconv {

namespace py = pybind11;

/// numpy.dtype or fastconv.cuda.bfloat16; a new reference to one object a dtype.
py::object dtype_object(DType dtype);
/// A dtype, its name, or what numpy.dtype() takes; TypeError for one that CUDA arrays do not have.
DType dtype_from(py::handle object);
const char* dtype_name(DType dtype);

}  // namespace fastconv

// Dtypes of CUDA arrays as Python objects and back.
#include "bindings/cuda_dtype.h"

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/numpy.h>

#include <array>
#include <string>

namespace fastconv {
namespace {

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kInt64};
using Objects = std::array<py::object, 5>;  // by DType

const Objects& objects() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Objects> stored;
    return stored
        .call_once_and_store_result([] {
            Objects all;
            for (const DType dtype : kDTypes)
                all[static_cast<std::size_t>(dtype)] =
                    dtype == DType::kBFloat16
                        ? py::object(py::module_::import("fastconv.cuda").attr("bfloat16"))
                        : py::object(py::dtype(std::string(dtype_name(dtype))));
            return all;
        })
        .get_stored();
}

}  // namespace

const char* dtype_name(DType dtype) {
    switch (dtype) {
        case DType::kFloat32: return "float32";
        case DType::kFloat16: return "float16";
        case DType::kBFloat16: return "bfloat16";
        default: return "int64";
    }
}

py::object dtype_object(DType dtype) { return objects()[static_cast<std::size_t>(dtype)]; }

DType dtype_from(py::handle object) {
    const Objects& all = objects();
    for (const DType dtype : kDTypes)
        if (all[static_cast<std::size_t>(dtype)].is(object)) return dtype;
    // Classes (numpy.float32), strings and other spellings.
    std::string name;
    if (py::isinstance<py::str>(object)) {
        name = object.cast<std::string>();
    } else if (py::hasattr(object, "name") && py::isinstance<py::str>(object.attr("name"))) {
        name = object.attr("name").cast<std::string>();
    } else {
        name = py::str(py::dtype::from_args(py::reinterpret_borrow<py::object>(object)).attr("name"));
    }
    for (const DType dtype : kDTypes)
        if (name == dtype_name(dtype)) return dtype;
    throw py::type_error("CUDA arrays have no dtype " + name +
                         "; they have float32, float16, bfloat16 and int64");
}

}  // namespace fastconv

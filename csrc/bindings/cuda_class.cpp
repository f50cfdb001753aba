// The class _core.cuda.Array: what a NumPy array offers of views, copies and attributes, in a GPU's
// memory.
#include <pybind11/stl.h>

#include <cstdlib>
#include <string>

#include "bindings/cuda_array.h"
#include "bindings/cuda_dtype.h"
#include "bindings/cuda_torch.h"
#include "bindings/cuda_view.h"

namespace fastconv {
namespace {

using Sizes = std::vector<std::int64_t>;

struct CudaFlags {
    bool c_contiguous, f_contiguous, writeable, aligned;
};

py::tuple tuple_of(const Sizes& values, std::int64_t scale = 1) {
    py::tuple tuple(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) tuple[i] = py::int_(values[i] * scale);
    return tuple;
}

// f(2, 3) and f((2, 3)) alike.
Sizes sizes_of(const py::args& arguments) {
    if (arguments.size() == 1 && !PyIndex_Check(arguments[0].ptr())) {
        if (arguments[0].is_none()) return {};
        return arguments[0].cast<Sizes>();
    }
    return arguments.cast<Sizes>();
}

CudaArray copied(const CudaArray& array, DType dtype, bool channels_last) {
    const CudaCall call({&array});
    CudaArray result = empty_array(array.shape, dtype, channels_last, call.stream());
    result.stream = array.stream;
    cuda::run_copy(tensor_of(array), tensor_of(result), call.stream());
    return result;
}

bool is_channels_last(const CudaArray& array) {
    if (array.rank() < 3 || is_c_contiguous(array)) return false;
    Sizes axes{0};
    for (int d = 2; d < array.rank(); ++d) axes.push_back(d);
    axes.push_back(1);
    return is_c_contiguous(transposed(array, axes));
}

bool last_for(const CudaArray& array, const std::optional<std::string>& order) {
    if (!order || *order == "C") return false;
    if (*order == "channels_last") return true;
    if (*order == "K") return is_channels_last(array);
    throw py::value_error("order must be \"C\", \"K\" or \"channels_last\", not '" + *order + "'");
}

bool has_kernels(DType dtype) {
    return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
}

// ops.arrays.prefers_channels_last.
std::optional<bool> prefers_channels_last(const CudaArray& x) {
    if (x.rank() != 4) throw std::invalid_argument("_core: array of another rank expected");
    if (x.shape[1] == 1 || x.shape[2] * x.shape[3] == 1) return std::nullopt;
    return std::abs(x.elems[1]) < std::abs(x.elems[x.shape[3] > 1 ? 3 : 2]);
}

CudaArray empty_images(Sizes shape, const py::object& dtype, const CudaArray& x,
                       py::handle weight) {
    std::optional<bool> last = prefers_channels_last(x);
    if (!last && !weight.is_none()) last = prefers_channels_last(weight.cast<const CudaArray&>());
    const CudaCall call({&x});
    return empty_beside(&x, std::move(shape), dtype_from(dtype), last.value_or(false),
                        call.stream());
}

CudaArray reshape(const CudaArray& array, const py::args& arguments) {
    Sizes shape = sizes_of(arguments);
    if (auto view = reshaped(array, shape)) return *view;
    return *reshaped(copied(array, array.dtype, false), shape);
}

void assign(const CudaArray& array, const py::object& key, const py::object& value) {
    const CudaArray target = view_of(array, key);
    const Tensor written = written_tensor_of(target);
    if (py::isinstance<CudaArray>(value)) {
        const auto& source = value.cast<const CudaArray&>();
        const CudaCall call({&target, &source});
        cuda::run_copy(tensor_of(broadcast(source, target.shape)), written, call.stream());
    } else if (PyNumber_Check(value.ptr()) && !py::hasattr(value, "__len__")) {
        const CudaCall call({&target});
        cuda::run_fill(written, value.cast<double>(), call.stream());
    } else {
        throw py::type_error("a CUDA array takes numbers and CUDA arrays; convert with "
                             "fastconv.cuda.asarray");
    }
}

// Waits for the stream.
py::object item(const CudaArray& array) {
    if (array.size() != 1)
        throw py::value_error("only an array of one element is a number; this one has shape " +
                              shape_text(array.shape));
    const bool whole = array.dtype == DType::kInt64;
    const CudaCall call({&array});
    if (is_captured(call.stream()))
        throw std::runtime_error("item: an array's number cannot be waited for inside a capture; ask "
                                 "for it after Graph.launch");
    CudaArray wide = array;
    if (!whole) {
        wide = empty_array(array.shape, DType::kFloat32, false, call.stream());
        cuda::run_copy(tensor_of(array), tensor_of(wide), call.stream());
    }
    std::int64_t integer = 0;
    float number = 0;
    {
        const py::gil_scoped_release release;
        cuda::copy_bytes(whole ? static_cast<void*>(&integer) : &number, wide.data, whole ? 8 : 4,
                         cuda::CopyKind::kDeviceToHost, call.stream());
        cuda::synchronize(call.stream());
    }
    if (whole) return py::int_(integer);
    return py::float_(number);
}

std::string repr(const CudaArray& array) {
    return "fastconv.cuda.Array(shape=" + shape_text(array.shape) + ", dtype=" +
           dtype_name(array.dtype) + ", device=" + std::to_string(array.device()) +
           (is_channels_last(array) ? ", channels last)" : ")");
}

}  // namespace

void bind_cuda_array(py::module_& module) {
    py::class_<CudaFlags>(module, "Flags")
        .def_readonly("c_contiguous", &CudaFlags::c_contiguous)
        .def_readonly("f_contiguous", &CudaFlags::f_contiguous)
        .def_readonly("writeable", &CudaFlags::writeable)
        .def_readonly("aligned", &CudaFlags::aligned);

    py::class_<CudaArray>(module, "Array")
        .def_property_readonly("shape", [](const CudaArray& a) { return tuple_of(a.shape); })
        .def_property_readonly(
            "strides", [](const CudaArray& a) { return tuple_of(a.elems, a.item_bytes()); },
            "In bytes")
        .def_property_readonly("dtype", [](const CudaArray& a) { return dtype_object(a.dtype); })
        .def_property_readonly("ndim", &CudaArray::rank)
        .def_property_readonly("size", &CudaArray::size)
        .def_property_readonly("itemsize", &CudaArray::item_bytes)
        .def_property_readonly("nbytes",
                               [](const CudaArray& a) { return a.size() * a.item_bytes(); })
        .def_property_readonly("device", &CudaArray::device, "The GPU's number")
        .def_property_readonly(
            "ptr", [](const CudaArray& a) { return reinterpret_cast<std::uintptr_t>(a.data); },
            "Address of the first element in the GPU's memory")
        .def_property_readonly("flags",
                               [](const CudaArray& a) {
                                   return CudaFlags{is_c_contiguous(a),
                                                    is_c_contiguous(transposed(a, {})), a.writable,
                                                    true};
                               })
        .def_property_readonly("stream", [](const CudaArray& a) { return a.stream; },
                               "The stream of the tensor's own library, or None")
        .def_property_readonly("has_kernels", [](const CudaArray& a) { return has_kernels(a.dtype); },
                               "Whether its dtype is float32, float16 or bfloat16")
        .def("is_like",
             [](const CudaArray& a, const CudaArray& other) {
                 return a.dtype == other.dtype && a.device() == other.device();
             },
             py::arg("other"), "Whether both have one dtype and device")
        .def_property_readonly("owned", [](const CudaArray& a) { return a.buffer->owned(); },
                               "Whether fastconv allocated the memory")
        .def_property_readonly("T", [](const CudaArray& a) { return transposed(a, {}); })
        .def("transpose",
             [](const CudaArray& a, const py::args& axes) { return transposed(a, sizes_of(axes)); })
        .def("reshape", &reshape, "A view where the strides allow it, else a copy")
        .def("__getitem__", &view_of)
        .def("__setitem__", &assign)
        .def("__len__",
             [](const CudaArray& a) {
                 if (a.shape.empty()) throw py::type_error("len() of an array without dimensions");
                 return a.shape[0];
             })
        .def("copy",
             [](const CudaArray& a, const std::optional<std::string>& order) {
                 return copied(a, a.dtype, last_for(a, order));
             },
             py::arg("order") = "C", "\"C\", \"K\" (as it is) or \"channels_last\"")
        .def("astype",
             [](const CudaArray& a, const py::object& dtype) {
                 return copied(a, dtype_from(dtype), is_channels_last(a));
             },
             py::arg("dtype"), "A copy with the nearest values of another dtype, in the same order")
        .def("fill",
             [](const CudaArray& a, double value) {
                 const CudaCall call({&a});
                 cuda::run_fill(written_tensor_of(a), value, call.stream());
             },
             py::arg("value"))
        .def("item", &item, "The one element as a number; waits for it")
        .def("__float__", [](const CudaArray& a) { return item(a).cast<double>(); })
        .def("__int__", [](const CudaArray& a) { return py::int_(item(a)); })
        .def("__bool__", [](const CudaArray& a) { return py::bool_(item(a)); })
        .def("__repr__", &repr)
        .def("__array__",
             [](const CudaArray&, const py::args&, const py::kwargs&) -> py::object {
                 throw py::type_error("a CUDA array is never copied to the host silently; use "
                                      "fastconv.cuda.asnumpy(array)");
             })
        .def("read_only",
             [](const CudaArray& a) {
                 CudaArray view = a;
                 view.writable = false;
                 return view;
             },
             "A view that refuses to be written");

    module.def(
        "empty",
        [](Sizes shape, const py::object& dtype, const CudaArray* like, bool channels_last) {
            const CudaCall call({like});
            return empty_beside(like, std::move(shape), dtype_from(dtype), channels_last,
                                call.stream());
        },
        py::arg("shape"), py::arg("dtype"), py::arg("like") = nullptr,
        py::arg("channels_last") = false,
        "On the device, for the stream and in the family of `like`");
    module.def("empty_images", &empty_images, py::arg("shape"), py::arg("dtype"), py::arg("x"),
               py::arg("weight"), "As ops.arrays.empty");
}

}  // namespace fastconv

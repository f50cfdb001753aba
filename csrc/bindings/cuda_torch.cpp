// PyTorch's tensors by their own attributes, 0.9 us each, and results in
// tensors that PyTorch allocates: nothing is wrapped on the way back, one pool holds all its memory,
// and a graph that PyTorch captures owns what it must.
// Whose stream: that on which PyTorch works now. Its allocator reuses memory in the order of that
// stream, so that results are its tensors only for a call that works there.
#include "bindings/cuda_torch.h"

#include <algorithm>
#include <string>
#include <utility>

namespace fastconv {
namespace {

py::object owned(PyObject* result) {
    if (!result) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(result);
}

// Names are made once: py::object::attr("name") makes a string every time.
struct Name {
    explicit Name(const char* name) : text(PyUnicode_InternFromString(name)) {}
    py::object of(PyObject* object) const { return owned(PyObject_GetAttr(object, text)); }
    py::object call(PyObject* object) const {
        return owned(PyObject_CallMethodNoArgs(object, text));
    }
    PyObject* text;
};

struct Names {
    Name requires_grad{"requires_grad"}, dtype{"dtype"}, shape{"shape"}, is_neg{"is_neg"},
        stride{"stride"}, get_device{"get_device"}, data_ptr{"data_ptr"},
        storage_offset{"storage_offset"}, new_empty_strided{"new_empty_strided"},
        as_strided{"as_strided"};
};
const Names& names() {
    static const auto* const all = new Names;
    return *all;
}

// What is asked of the module, once: `module` tells whether it is still the same.
struct Torch {
    py::object module, raw_stream, dtypes[5];  // by DType
};

Torch& last_torch() {  // never destroyed: the interpreter may be gone
    static auto* const torch = new Torch;
    return *torch;
}

const Torch& torch_of(py::handle module) {
    if (last_torch().module.is(module)) return last_torch();
    Torch found;
    for (const auto& [dtype, name] : {std::pair{DType::kFloat32, "float32"},
                                      {DType::kFloat16, "float16"},
                                      {DType::kBFloat16, "bfloat16"},
                                      {DType::kInt64, "int64"}})
        found.dtypes[static_cast<std::size_t>(dtype)] = module.attr(name);
    // Takes a tenth of the time of torch.cuda.current_stream().
    found.raw_stream = py::getattr(module.attr("_C"), "_cuda_getCurrentRawStream", py::none());
    found.module = py::reinterpret_borrow<py::object>(module);
    last_torch() = std::move(found);
    return last_torch();
}

cuda::Stream stream_of(const Torch& torch, int device) {
    if (!torch.raw_stream.is_none()) return torch.raw_stream(device).cast<cuda::Stream>();
    return torch.module.attr("cuda").attr("current_stream")(device).attr("cuda_stream")
        .cast<cuda::Stream>();
}

cuda::Stream torch_stream(py::handle torch, int device) {
    return stream_of(torch_of(torch), device);
}

std::vector<std::int64_t> integers(const py::object& tuple) {
    if (!PyTuple_Check(tuple.ptr())) throw py::type_error("a tensor's sizes are no tuple");
    std::vector<std::int64_t> values(static_cast<std::size_t>(PyTuple_GET_SIZE(tuple.ptr())));
    for (std::size_t d = 0; d < values.size(); ++d)
        values[d] = PyLong_AsLongLong(
            PyTuple_GET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(d)));
    if (PyErr_Occurred()) throw py::error_already_set();
    return values;
}

py::tuple tuple_of(const std::vector<std::int64_t>& values) {
    py::tuple tuple(values.size());
    for (std::size_t d = 0; d < values.size(); ++d)
        PyTuple_SET_ITEM(tuple.ptr(), static_cast<Py_ssize_t>(d), PyLong_FromLongLong(values[d]));
    return tuple;
}

void* address_of(PyObject* tensor) {
    return reinterpret_cast<void*>(names().data_ptr.call(tensor).cast<std::uintptr_t>());
}

/// Of `function`'s operand `name`. `for_call`: results of that call may be tensors.
CudaArray from_torch(py::handle module, const py::object& tensor, py::handle function,
                     py::handle name, bool for_call) {
    const Names& n = names();
    const Torch& torch = torch_of(module);
    auto said = [&](const std::string& text) {
        return std::string(py::str(function)) + ": " + std::string(py::str(name)) + text;
    };
    if (n.requires_grad.of(tensor.ptr()).ptr() != Py_False)
        throw py::type_error(said(" is a tensor that requires grad, which fastconv does not record; "
                                  "pass it with .detach()"));
    CudaArray array;
    const py::object type = n.dtype.of(tensor.ptr());
    const auto found = std::find_if(std::begin(torch.dtypes), std::end(torch.dtypes),
                                    [&](const py::object& t) { return t && t.is(type); });
    if (found == std::end(torch.dtypes))
        throw py::type_error(said(" has dtype " + std::string(py::str(type)) +
                                  ", which has no kernels; float32, float16 and bfloat16 have: "
                                  "convert it with .float()"));
    array.dtype = static_cast<DType>(found - std::begin(torch.dtypes));
    if (n.is_neg.call(tensor.ptr()).ptr() != Py_False)
        throw py::type_error(said(" is to be negated when read; pass it with .resolve_neg()"));
    array.elems = integers(n.stride.call(tensor.ptr()));
    array.shape = integers(n.shape.of(tensor.ptr()));
    if (array.shape.size() > kMaxRank)
        throw py::value_error("an array has " + std::to_string(array.shape.size()) +
                              " dimensions; at most " + std::to_string(kMaxRank) + " work");
    const int device = n.get_device.call(tensor.ptr()).cast<int>();
    array.data = address_of(tensor.ptr());
    array.buffer = std::make_shared<CudaBuffer>(array.data, device, keep_alive(tensor),
                                                for_call ? tensor.ptr() : nullptr);
    array.stream = stream_of(torch, device);
    return array;
}

/// Memory for `array` in a tensor beside `like`.
void allocate_beside(PyObject* like, CudaArray& array, const CudaArray& first) {
    const py::tuple shape = tuple_of(array.shape), elems = tuple_of(array.elems);
    PyObject* const arguments[] = {
        like, shape.ptr(), elems.ptr(),
        last_torch().dtypes[static_cast<std::size_t>(array.dtype)].ptr()};
    static PyObject* const keywords = py::make_tuple("dtype").release().ptr();
    const bool same = array.dtype == first.dtype;
    const py::object tensor = owned(PyObject_VectorcallMethod(
        names().new_empty_strided.text, arguments, 3, same ? nullptr : keywords));
    array.data = address_of(tensor.ptr());
    array.buffer = std::make_shared<CudaBuffer>(array.data, first.device(), keep_alive(tensor),
                                                tensor.ptr());
}

/// The tensor that `array` lies in, or a view of it; None if it lies in none.
py::object to_torch(const CudaArray& array) {
    PyObject* const tensor = array.buffer->tensor();
    if (!tensor) return py::none();
    const Names& n = names();
    if (array.data == array.buffer->data() && array.shape == integers(n.shape.of(tensor)) &&
        array.elems == integers(n.stride.call(tensor)))
        return py::reinterpret_borrow<py::object>(tensor);
    const std::int64_t first =
        n.storage_offset.call(tensor).cast<std::int64_t>() +
        (static_cast<char*>(array.data) - static_cast<char*>(array.buffer->data())) /
            array.item_bytes();
    return py::handle(tensor).attr("as_strided")(tuple_of(array.shape), tuple_of(array.elems),
                                                 first);
}

}  // namespace

std::shared_ptr<void> keep_alive(py::handle object) {
    object.inc_ref();
    return {object.ptr(), [](PyObject* kept) {
                if (!Py_IsInitialized()) return;
                const py::gil_scoped_acquire gil;
                Py_DECREF(kept);
            }};
}

CudaArray empty_beside(const CudaArray* like, std::vector<std::int64_t> shape, DType dtype,
                       bool channels_last, cuda::Stream stream) {
    if (!like) return empty_array(std::move(shape), dtype, channels_last, stream);
    PyObject* const tensor = like->buffer->tensor();
    CudaArray array;
    if (tensor && stream_of(last_torch(), like->device()) == stream) {
        array = unallocated(std::move(shape), dtype, channels_last);
        allocate_beside(tensor, array, *like);
    } else {
        array = empty_array(std::move(shape), dtype, channels_last, stream);
    }
    array.stream = like->stream;
    return array;
}

void bind_cuda_torch(py::module_& module) {
    module.def("from_torch", &from_torch, py::arg("torch"), py::arg("tensor"), py::arg("function"),
               py::arg("name"), py::arg("for_call"));
    module.def("to_torch", &to_torch, py::arg("array"));
    module.def("torch_stream", &torch_stream, py::arg("torch"), py::arg("device"));
}

}  // namespace fastconv

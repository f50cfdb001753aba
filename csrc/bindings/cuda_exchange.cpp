// CUDA arrays of other libraries as views, and back, without a copy: DLPack, __cuda_array_interface__
// (version 3), and PyTorch's tensors by their own attributes, which takes a third of the time.
// Whose stream: a tensor's work goes on the stream its library works on now; DLPack's capsules were
// made for our current one.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "bindings/cuda_array.h"
#include "bindings/cuda_dtype.h"
#include "bindings/dlpack.h"

namespace fastconv {
namespace {

// ---- out -----------------------------------------------------------------------------------------

dlpack::DataType dlpack_dtype(DType dtype) {
    switch (dtype) {
        case DType::kInt64: return {dlpack::kInt, 64, 1};
        case DType::kBFloat16: return {dlpack::kBFloat, 16, 1};
        case DType::kFloat16: return {dlpack::kFloat, 16, 1};
        default: return {dlpack::kFloat, 32, 1};
    }
}

void fill_tensor(dlpack::Tensor& tensor, CudaArray& array) {
    tensor.data = array.data;
    tensor.device = {dlpack::kCuda, array.device()};
    tensor.rank = array.rank();
    tensor.dtype = dlpack_dtype(array.dtype);
    tensor.shape = array.shape.data();
    tensor.elems = array.elems.data();
    tensor.byte_offset = 0;
}

/// `Struct` is owned by the capsule until a consumer renames it.
template <class Struct>
py::capsule capsule_of(const CudaArray& array, const char* name, void (*prepare)(Struct&)) {
    auto owner = std::make_unique<CudaArray>(array);
    auto managed = std::make_unique<Struct>();
    prepare(*managed);
    fill_tensor(managed->tensor, *owner);
    managed->context = owner.release();
    managed->deleter = [](Struct* self) {
        delete static_cast<CudaArray*>(self->context);
        delete self;
    };
    PyObject* capsule = PyCapsule_New(managed.get(), name, [](PyObject* self) {
        for (const char* unused : {"dltensor", "dltensor_versioned"})
            if (PyCapsule_IsValid(self, unused)) {
                auto* left = static_cast<Struct*>(PyCapsule_GetPointer(self, unused));
                left->deleter(left);
            }
    });
    if (!capsule) throw py::error_already_set();
    managed.release();
    return py::reinterpret_steal<py::capsule>(capsule);
}

[[noreturn]] void buffer_error(const std::string& text) {
    PyErr_SetString(PyExc_BufferError, text.c_str());
    throw py::error_already_set();
}

using Version = std::optional<std::pair<int, int>>;

py::capsule to_dlpack(const CudaArray& array, std::optional<std::int64_t> stream,
                      const Version& max_version, const std::optional<std::pair<int, int>>& dl_device,
                      std::optional<bool> copy) {
    if (dl_device && *dl_device != std::pair<int, int>(dlpack::kCuda, array.device()))
        buffer_error("a CUDA array is exported on its own device only; copy it to the host with "
                     "fastconv.cuda.asnumpy");
    if (stream && (*stream == 0 || *stream < -1))
        throw py::value_error("__dlpack__: stream must be -1, 1, 2 or a stream's address, not " +
                              std::to_string(*stream));
    const bool versioned = max_version && max_version->first >= 1;
    if (!array.writable && !versioned && !copy.value_or(false))
        buffer_error("a read-only array needs DLPack 1.0; pass max_version=(1, 0)");
    const CudaCall call({&array});
    CudaArray given = array;
    if (copy.value_or(false)) {
        given = empty_array(array.shape, array.dtype, false, call.stream());
        cuda::run_copy(tensor_of(array), tensor_of(given), call.stream());
    }
    const auto consumer = static_cast<cuda::Stream>(stream.value_or(1));
    if (stream != -1 && !is_captured(consumer) && !is_captured(call.stream()))
        cuda::wait_for(consumer, call.stream());
    if (!versioned)
        return capsule_of<dlpack::Managed>(given, "dltensor", [](dlpack::Managed&) {});
    py::capsule capsule = capsule_of<dlpack::ManagedVersioned>(
        given, "dltensor_versioned", [](dlpack::ManagedVersioned& managed) {
            managed.major = 1;
            managed.minor = 0;
            managed.flags = 0;
        });
    auto* managed = static_cast<dlpack::ManagedVersioned*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    if (!given.writable) managed->flags |= dlpack::kReadOnly;
    if (copy.value_or(false)) managed->flags |= dlpack::kCopied;
    return capsule;
}

py::dict to_interface(const CudaArray& array) {
    if (array.dtype == DType::kBFloat16)
        throw py::attribute_error("__cuda_array_interface__ has no bfloat16; use DLPack");
    py::dict interface;
    py::tuple shape(array.shape.size()), strides(array.shape.size());
    for (std::size_t d = 0; d < array.shape.size(); ++d) {
        shape[d] = py::int_(array.shape[d]);
        strides[d] = py::int_(array.elems[d] * array.item_bytes());
    }
    const CudaCall call({&array});
    interface["shape"] = shape;
    interface["typestr"] = array.dtype == DType::kInt64     ? "<i8"
                           : array.dtype == DType::kFloat16 ? "<f2"
                                                            : "<f4";
    interface["data"] =
        py::make_tuple(reinterpret_cast<std::uintptr_t>(array.size() ? array.data : nullptr),
                       !array.writable);
    interface["strides"] = strides;
    interface["version"] = 3;
    interface["stream"] = call.stream() == 0 ? 1 : call.stream();
    return interface;
}

// ---- in ------------------------------------------------------------------------------------------

/// Keeps a Python object until the last view is gone, on whatever thread that is.
std::shared_ptr<void> keep_alive(py::handle object) {
    object.inc_ref();
    return {object.ptr(), [](PyObject* kept) {
                if (!Py_IsInitialized()) return;
                const py::gil_scoped_acquire gil;
                Py_DECREF(kept);
            }};
}

CudaArray view_on(void* data, int device, DType dtype, std::shared_ptr<void> keep) {
    CudaArray array;
    array.buffer = std::make_shared<CudaBuffer>(data, device, std::move(keep));
    array.data = data;
    array.dtype = dtype;
    return array;
}

void check_rank(std::size_t rank) {
    if (rank > kMaxRank)
        throw py::value_error("an array has " + std::to_string(rank) + " dimensions; at most " +
                              std::to_string(kMaxRank) + " work");
}

void set_c_order(CudaArray& array) {
    array.elems.assign(array.shape.size(), 1);
    for (std::size_t d = array.shape.size(); d-- > 1;)
        array.elems[d - 1] = array.elems[d] * std::max<std::int64_t>(array.shape[d], 1);
}

CudaArray from_tensor(const dlpack::Tensor& tensor, std::shared_ptr<void> keep) {
    const dlpack::DataType type = tensor.dtype;
    DType dtype;
    if (type.lanes == 1 && type.code == dlpack::kFloat && type.bits == 32) dtype = DType::kFloat32;
    else if (type.lanes == 1 && type.code == dlpack::kFloat && type.bits == 16) dtype = DType::kFloat16;
    else if (type.lanes == 1 && type.code == dlpack::kBFloat && type.bits == 16) dtype = DType::kBFloat16;
    else if (type.lanes == 1 && type.code == dlpack::kInt && type.bits == 64) dtype = DType::kInt64;
    else
        throw py::type_error("CUDA arrays have no dtype of DLPack's code " +
                             std::to_string(type.code) + " with " + std::to_string(type.bits) +
                             " bits; they have float32, float16, bfloat16 and int64");
    if (tensor.device.type != dlpack::kCuda && tensor.device.type != dlpack::kCudaManaged)
        buffer_error("the array is not on a CUDA device (DLPack device type " +
                     std::to_string(tensor.device.type) + ")");
    check_rank(static_cast<std::size_t>(tensor.rank));
    CudaArray array = view_on(static_cast<char*>(tensor.data) + tensor.byte_offset,
                              tensor.device.id, dtype, std::move(keep));
    array.shape.assign(tensor.shape, tensor.shape + tensor.rank);
    if (tensor.elems)
        array.elems.assign(tensor.elems, tensor.elems + tensor.rank);
    else
        set_c_order(array);
    return array;
}

template <class Struct>
Struct* consumed(const py::capsule& capsule, const char* name, const char* used) {
    auto* managed = static_cast<Struct*>(PyCapsule_GetPointer(capsule.ptr(), name));
    if (!managed || PyCapsule_SetName(capsule.ptr(), used) != 0) throw py::error_already_set();
    return managed;
}

template <class Struct>
std::shared_ptr<void> keep_managed(Struct* managed) {
    return {managed, [](Struct* left) {
                if (left->deleter) left->deleter(left);
            }};
}

CudaArray from_dlpack(const py::capsule& capsule) {
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
        auto* managed = consumed<dlpack::ManagedVersioned>(capsule, "dltensor_versioned",
                                                           "used_dltensor_versioned");
        const std::shared_ptr<void> keep = keep_managed(managed);
        if (managed->major != 1)
            buffer_error("DLPack " + std::to_string(managed->major) + " is unknown here");
        CudaArray array = from_tensor(managed->tensor, keep);
        array.writable = (managed->flags & dlpack::kReadOnly) == 0;
        return array;
    }
    auto* managed = consumed<dlpack::Managed>(capsule, "dltensor", "used_dltensor");
    return from_tensor(managed->tensor, keep_managed(managed));
}

CudaArray from_interface(const py::object& owner, const py::dict& interface) {
    const auto type = interface["typestr"].cast<std::string>();
    DType dtype;
    if (type == "<f4") dtype = DType::kFloat32;
    else if (type == "<f2") dtype = DType::kFloat16;
    else if (type == "<i8") dtype = DType::kInt64;
    else
        throw py::type_error("CUDA arrays have no dtype " + type +
                             "; they have float32, float16, bfloat16 and int64");
    if (interface.contains("mask") && !interface["mask"].is_none())
        throw py::type_error("a masked array, whose mask no function here knows");
    const auto data = interface["data"].cast<std::pair<std::uintptr_t, bool>>();
    void* pointer = reinterpret_cast<void*>(data.first);
    const int device = pointer ? cuda::device_of(pointer) : cuda::current_device();
    CudaArray array = view_on(pointer, device, dtype, keep_alive(owner));
    array.writable = !data.second;
    array.shape = interface["shape"].cast<std::vector<std::int64_t>>();
    check_rank(array.shape.size());
    if (interface.contains("strides") && !interface["strides"].is_none()) {
        for (const py::handle bytes : interface["strides"].cast<py::tuple>()) {
            const auto stride = bytes.cast<std::int64_t>();
            if (stride % array.item_bytes() != 0) throw py::value_error("strides split an element");
            array.elems.push_back(stride / array.item_bytes());
        }
        if (array.elems.size() != array.shape.size())
            throw py::value_error("as many strides as dimensions expected");
    } else {
        set_c_order(array);
    }
    if (interface.contains("stream") && !interface["stream"].is_none()) {
        const auto stream = interface["stream"].cast<cuda::Stream>();
        array.stream = stream == 1 ? 0 : stream;
    }
    return array;
}

// ---- PyTorch -------------------------------------------------------------------------------------

py::object call_method(py::handle object, const char* name) { return object.attr(name)(); }

std::optional<DType> torch_dtype(py::handle torch, py::handle dtype) {
    if (dtype.is(torch.attr("float32"))) return DType::kFloat32;
    if (dtype.is(torch.attr("float16"))) return DType::kFloat16;
    if (dtype.is(torch.attr("bfloat16"))) return DType::kBFloat16;
    if (dtype.is(torch.attr("int64"))) return DType::kInt64;
    return std::nullopt;
}

/// The stream PyTorch works on now. Its _C function takes a tenth of current_stream()'s time.
cuda::Stream torch_stream(py::handle torch, int device) {
    const py::object c = torch.attr("_C");
    if (py::hasattr(c, "_cuda_getCurrentRawStream"))
        return c.attr("_cuda_getCurrentRawStream")(device).cast<cuda::Stream>();
    return torch.attr("cuda").attr("current_stream")(device).attr("cuda_stream").cast<cuda::Stream>();
}

/// `where`: what an error begins with.
CudaArray from_torch(py::handle torch, const py::object& tensor, py::handle where) {
    auto said = [&](const std::string& text) { return std::string(py::str(where)) + text; };
    if (PyObject_IsTrue(tensor.attr("requires_grad").ptr()))
        throw py::type_error(said(" is a tensor that requires grad, which fastconv does not record; "
                                  "pass it with .detach()"));
    const std::optional<DType> dtype = torch_dtype(torch, tensor.attr("dtype"));
    if (!dtype)
        throw py::type_error(said(" has dtype " + std::string(py::str(tensor.attr("dtype"))) +
                                  ", which has no kernels; float32, float16 and bfloat16 have: "
                                  "convert it with .float()"));
    if (PyObject_IsTrue(call_method(tensor, "is_neg").ptr()))
        throw py::type_error(said(" is to be negated when read; pass it with .resolve_neg()"));
    const auto strides = call_method(tensor, "stride").cast<py::tuple>();
    const auto shape = tensor.attr("shape").cast<py::tuple>();
    check_rank(shape.size());
    const int device = call_method(tensor, "get_device").cast<int>();
    CudaArray array =
        view_on(reinterpret_cast<void*>(call_method(tensor, "data_ptr").cast<std::uintptr_t>()),
                device, *dtype, keep_alive(tensor));
    array.shape.reserve(shape.size());
    array.elems.reserve(shape.size());
    for (std::size_t d = 0; d < shape.size(); ++d) {
        array.shape.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), d)));
        array.elems.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(strides.ptr(), d)));
    }
    if (PyErr_Occurred()) throw py::error_already_set();
    array.stream = torch_stream(torch, device);
    return array;
}

}  // namespace

void bind_cuda_exchange(py::module_& module) {
    auto type = py::reinterpret_borrow<py::class_<CudaArray>>(module.attr("Array"));
    type.def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
             py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
             py::arg("copy") = py::none());
    type.def("__dlpack_device__", [](const CudaArray& array) {
        return py::make_tuple(static_cast<int>(dlpack::kCuda), array.device());
    });
    type.def_property_readonly("__cuda_array_interface__", &to_interface);

    module.def("from_dlpack", &from_dlpack, py::arg("capsule"), "On our current stream");
    module.def("from_interface", &from_interface, py::arg("owner"), py::arg("interface"));
    module.def("from_torch", &from_torch, py::arg("torch"), py::arg("tensor"), py::arg("where"));
    module.def("torch_stream", &torch_stream, py::arg("torch"), py::arg("device"));
}

}  // namespace fastconv

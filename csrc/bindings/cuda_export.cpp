// CUDA arrays for other libraries, without a copy: DLPack (1.0 and before) and __cuda_array_interface__
// (version 3). The consumer's stream waits for ours, as DLPack has it, and what was ours goes back to
// the pool after the consumer's stream.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "bindings/cuda_array.h"
#include "bindings/cuda_dtype.h"
#include "bindings/dlpack.h"

namespace fastconv {
namespace {

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
    if (stream != -1) {
        // The consumer says when it has enqueued its last use, not when that is over.
        given.buffer->used_on(consumer);
        if (!is_captured(consumer) && !is_captured(call.stream()))
            cuda::wait_for(consumer, call.stream());
    }
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

}  // namespace

void bind_cuda_export(py::module_& module) {
    auto type = py::reinterpret_borrow<py::class_<CudaArray>>(module.attr("Array"));
    type.def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
             py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
             py::arg("copy") = py::none());
    type.def("__dlpack_device__", [](const CudaArray& array) {
        return py::make_tuple(static_cast<int>(dlpack::kCuda), array.device());
    });
    type.def_property_readonly("__cuda_array_interface__", &to_interface);
}

}  // namespace fastconv

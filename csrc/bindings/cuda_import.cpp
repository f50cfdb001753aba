// CUDA arrays of other libraries as views, without a copy: DLPack and __cuda_array_interface__.
// Whose stream: DLPack's capsules were made for our current one.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <string>

#include "bindings/cuda_array.h"
#include "bindings/cuda_torch.h"
#include "bindings/dlpack.h"

namespace fastconv {
namespace {

[[noreturn]] void buffer_error(const std::string& text) {
    PyErr_SetString(PyExc_BufferError, text.c_str());
    throw py::error_already_set();
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
    auto is = [&](std::uint8_t code, std::uint8_t bits) {
        return type.lanes == 1 && type.code == code && type.bits == bits;
    };
    if (!is(dlpack::kFloat, 32) && !is(dlpack::kFloat, 16) && !is(dlpack::kBFloat, 16) &&
        !is(dlpack::kInt, 64))
        throw py::type_error("CUDA arrays have no dtype of DLPack's code " +
                             std::to_string(type.code) + " with " + std::to_string(type.bits) +
                             " bits; they have float32, float16, bfloat16 and int64");
    const DType dtype = is(dlpack::kFloat, 32)   ? DType::kFloat32
                        : is(dlpack::kFloat, 16) ? DType::kFloat16
                        : is(dlpack::kInt, 64)   ? DType::kInt64
                                                 : DType::kBFloat16;
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

}  // namespace

void bind_cuda_import(py::module_& module) {
    module.def("from_dlpack", &from_dlpack, py::arg("capsule"), "On our current stream");
    module.def("from_interface", &from_interface, py::arg("owner"), py::arg("interface"));
}

}  // namespace fastconv

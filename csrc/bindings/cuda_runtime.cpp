// Devices, memory, streams, events and graphs for fastconv.cuda.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "bindings/cuda_array.h"
#include "bindings/cuda_dtype.h"
#include "bindings/cuda_torch.h"

namespace fastconv {
namespace {

using Release = py::call_guard<py::gil_scoped_release>;

py::dict device_dict(int index) {
    const cuda::DeviceInfo& info = cuda::device(index);
    py::dict facts;
    facts["index"] = info.index;
    facts["name"] = info.name;
    facts["compute_capability"] = py::make_tuple(info.capability / 10, info.capability % 10);
    facts["multiprocessors"] = info.multiprocessors;
    facts["shared_bytes"] = info.shared_bytes;
    facts["l2_bytes"] = info.l2_bytes;
    facts["memory_bytes"] = info.memory_bytes;
    return facts;
}

// uint8, C order; freed with its last view.
py::array pinned_bytes(std::size_t bytes) {
    void* data = cuda::allocate_pinned(bytes > 0 ? bytes : 1);
    py::capsule owner(data, [](void* p) { cuda::release_pinned(p); });
    return py::array(py::dtype::of<std::uint8_t>(), {static_cast<py::ssize_t>(bytes)}, {1}, data,
                     owner);
}

void check_block(const CudaArray& array, const py::buffer_info& host) {
    if (!is_c_contiguous(array) || PyBuffer_IsContiguous(host.view(), 'C') == 0 ||
        host.size * host.itemsize != array.size() * array.item_bytes())
        throw std::invalid_argument("_core: blocks of one size without gaps expected");
}

/// A captured copy reads or writes the host's memory at every launch.
void keep_for_capture(const char* function, const py::buffer_info& info, const py::buffer& host,
                      cuda::Stream stream) {
    if (!is_captured(stream) || info.size == 0) return;
    if (!cuda::is_pinned(info.ptr))
        throw std::runtime_error(std::string(function) +
                                 ": a capture would copy ordinary host memory, which may be gone when "
                                 "its graph is launched; copy it outside of the capture, or take "
                                 "memory of fastconv.cuda.pinned");
    keep_in_capture(std::make_shared<CudaBuffer>(info.ptr, cuda::current_device(), keep_alive(host)));
}

// Bytes of a buffer in C order into a C-contiguous array, and back. From and to pageable memory both
// wait; with pinned memory the caller keeps `host` until the stream is done. Captures keep theirs.
void copy_in(const CudaArray& array, const py::buffer& host) {
    const py::buffer_info info = host.request();
    check_block(array, info);
    written_tensor_of(array);
    const CudaCall call({&array});
    keep_for_capture("asarray", info, host, call.stream());
    const py::gil_scoped_release release;
    cuda::copy_bytes(array.data, info.ptr, static_cast<std::size_t>(info.size * info.itemsize),
                     cuda::CopyKind::kHostToDevice, call.stream());
}

void copy_out(const CudaArray& array, const py::buffer& host, bool wait) {
    const py::buffer_info info = host.request(true);
    check_block(array, info);
    const CudaCall call({&array});
    if (wait && is_captured(call.stream()))
        throw std::runtime_error("asnumpy: nothing can be waited for inside a capture; call it after "
                                 "Graph.launch, or pass wait=False and an out of fastconv.cuda.pinned");
    keep_for_capture("asnumpy", info, host, call.stream());
    const py::gil_scoped_release release;
    cuda::copy_bytes(info.ptr, array.data, static_cast<std::size_t>(info.size * info.itemsize),
                     cuda::CopyKind::kDeviceToHost, call.stream());
    if (wait) cuda::synchronize(call.stream());
}

// Between two GPUs, waiting for both sides.
void copy_between(const CudaArray& from, const CudaArray& to) {
    const auto bytes = static_cast<std::size_t>(from.size() * from.item_bytes());
    if (!is_c_contiguous(from) || !is_c_contiguous(to) || from.shape != to.shape ||
        from.dtype != to.dtype)
        throw std::invalid_argument("_core: blocks of one size without gaps expected");
    {
        const CudaCall source({&from});
        const py::gil_scoped_release release;
        cuda::synchronize(source.stream());
    }
    const CudaCall target({&to});
    const py::gil_scoped_release release;
    cuda::copy_bytes(to.data, from.data, bytes, cuda::CopyKind::kDeviceToDevice, target.stream());
    cuda::synchronize(target.stream());
}

/// A captured graph and the arrays that its kernels read and write.
class Graph {
public:
    Graph(CapturedGraph captured, int device) : captured_(std::move(captured)), device_(device) {}
    ~Graph() { cuda::destroy_graph(captured_.graph); }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;

    void launch() const {
        const CudaCall call(device_);
        launch_graph(captured_, call.stream());
    }
    std::size_t arrays() const { return captured_.used.size(); }

private:
    CapturedGraph captured_;
    int device_;
};

}  // namespace

void bind_cuda_runtime(py::module_& module) {
    module.def("built", &cuda::built);
    module.def("why_not_built", &cuda::why_not_built);
    module.def("architectures", &cuda::architectures);

    module.def("device_count", &cuda::device_count);
    module.def("why_no_device", &cuda::why_no_device);
    module.def("device", &device_dict, py::arg("index"));
    module.def("current_device", &cuda::current_device);
    module.def("set_device", &cuda::set_device, py::arg("index"));
    module.def("memory_stats", [](int device) {
        const cuda::MemoryStats stats = cuda::memory_stats(device);
        py::dict facts;
        facts["used"] = stats.used;
        facts["used_peak"] = stats.used_peak;
        facts["reserved"] = stats.reserved;
        facts["reserved_peak"] = stats.reserved_peak;
        return facts;
    });
    module.def("trim_memory", [](int device) {
        release_parked();
        cuda::trim_memory(device);
    }, py::arg("device"));
    module.def("pinned_bytes", &pinned_bytes, py::arg("bytes"));
    module.def("copy_in", &copy_in, py::arg("array"), py::arg("host"));
    module.def("copy_out", &copy_out, py::arg("array"), py::arg("host"), py::arg("wait") = true);
    module.def("copy_between", &copy_between, py::arg("source"), py::arg("target"));

    module.def("create_stream", &cuda::create_stream, py::arg("device"));
    module.def("destroy_stream", &cuda::destroy_stream, py::arg("stream"));
    module.def("current_stream", &current_stream);
    module.def("set_current_stream", &set_current_stream, py::arg("device"), py::arg("stream"));
    module.def("synchronize_stream", &cuda::synchronize, py::arg("stream"), Release());
    module.def("synchronize_device", &cuda::synchronize_device, py::arg("device"), Release());
    module.def("wait_for", &cuda::wait_for, py::arg("waiting"), py::arg("other"));

    module.def("create_event", &cuda::create_event);
    module.def("record_event", &cuda::record_event, py::arg("event"), py::arg("stream"));
    module.def("elapsed_milliseconds", &cuda::elapsed_milliseconds, py::arg("begin"),
               py::arg("end"), Release());
    module.def("destroy_event", &cuda::destroy_event, py::arg("event"));

    py::class_<Graph>(module, "Graph")
        .def("launch", &Graph::launch)
        .def_property_readonly("arrays", &Graph::arrays, "How many arrays from outside it uses");
    module.def("begin_capture", &begin_capture, py::arg("stream"));
    module.def("end_capture", [](cuda::Stream stream) {
        return std::make_unique<Graph>(end_capture(stream), cuda::current_device());
    });
}

}  // namespace fastconv

// What this build and this machine are: versions, instruction sets, threads, memory.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/cpu_budget.h"
#include "core/parallel.h"
#include "core/placement.h"
#include "core/workspace.h"
#include "cpu/isa.h"
#include "ops.h"

namespace py = pybind11;

namespace fastconv {
namespace {

std::vector<std::string> built_isas() {
    std::vector<std::string> names;
    for (const cpu::Isa& isa : cpu::isas()) names.push_back(isa.name);
    return names;
}

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const cpu::Isa& isa : cpu::isas()) {
        if (isa.supported()) names.push_back(isa.name);
    }
    return names;
}

// Returns this thread's former choice, for a context manager to put back.
std::optional<std::string> set_thread_isa(const std::optional<std::string>& name) {
    const cpu::Isa* before = cpu::thread_isa();
    cpu::set_thread_isa(name ? &cpu::find_isa(*name) : nullptr);
    return before ? std::optional<std::string>(before->name) : std::nullopt;
}

// What owns the memory of a result. NumPy lets an array that was made read-only be written again only
// where its owner exports a writable buffer, which a capsule does not. As cheap to make as one, while an
// object of a pybind11 class takes 0.1 us more.
struct ResultMemory {
    PyObject_HEAD
    Workspace memory;
};

int export_memory(PyObject* self, Py_buffer* view, int flags) {
    const Workspace& memory = reinterpret_cast<ResultMemory*>(self)->memory;
    return PyBuffer_FillInfo(view, self, memory.data(), static_cast<Py_ssize_t>(memory.capacity()),
                             0, flags);
}

void give_back(PyObject* self) {
    PyTypeObject* const type = Py_TYPE(self);
    reinterpret_cast<ResultMemory*>(self)->memory.~Workspace();
    type->tp_free(self);
    Py_DECREF(type);
}

PyTypeObject* result_memory_type = nullptr;

void make_result_memory_type() {
    static PyType_Slot slots[] = {
        {Py_bf_getbuffer, reinterpret_cast<void*>(&export_memory)},
        {Py_tp_dealloc, reinterpret_cast<void*>(&give_back)},
        {0, nullptr},
    };
    static PyType_Spec spec = {"fastconv._core.ResultMemory", sizeof(ResultMemory), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    result_memory_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    if (!result_memory_type) throw py::error_already_set();
}

// An array that owns a buffer of the list of results, which goes back when the last view is gone.
template <class... Layout>
py::array pooled(std::size_t bytes, const py::dtype& dtype, const Layout&... shape_and_strides) {
    Workspace memory = Workspace::acquire(bytes, Use::kResult);
    void* const data = memory.data();
    auto* const owner = PyObject_New(ResultMemory, result_memory_type);
    if (!owner) throw py::error_already_set();
    new (&owner->memory) Workspace(std::move(memory));
    return py::array(dtype, shape_and_strides..., data,
                     py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(owner)));
}

py::array empty(const std::vector<py::ssize_t>& shape, const py::dtype& dtype) {
    std::size_t bytes = static_cast<std::size_t>(dtype.itemsize());
    for (py::ssize_t size : shape) bytes *= static_cast<std::size_t>(size);
    return pooled(bytes, dtype, shape);
}

// Whether channels of (N, C, H, W) vary fastest; none if the shape leaves that open.
std::optional<bool> prefers_channels_last(const py::array& x) {
    if (x.ndim() != 4 || x.shape(1) == 1 || x.shape(2) * x.shape(3) == 1) return std::nullopt;
    return std::abs(x.strides(1)) < std::abs(x.strides(x.shape(3) > 1 ? 3 : 2));
}

constexpr double kPooled = 1 << 14;  // elements: NumPy keeps the memory of small arrays itself
constexpr double kLargest = static_cast<double>(std::int64_t{1} << 48);

// A result for a call on x; 0.4 us less than the same in Python.
py::array empty_images(const py::sequence& sizes, const py::object& type, const py::array& x,
                       const std::optional<py::array>& weight) {
    const py::dtype dtype = py::dtype::from_args(type);
    if (sizes.size() != 4) throw std::invalid_argument("_core: four sizes expected");
    std::array<py::ssize_t, 4> shape{};
    double count = 1;
    for (std::size_t i = 0; i < 4; ++i) {
        shape[i] = PyNumber_AsSsize_t(py::object(sizes[i]).ptr(), PyExc_ValueError);
        if (shape[i] == -1 && PyErr_Occurred()) throw py::error_already_set();
        count *= static_cast<double>(shape[i]);
    }
    if (!(count < kLargest)) throw std::length_error("_core: array of 2**48 elements or more");
    std::optional<bool> last = prefers_channels_last(x);
    if (!last && weight) last = prefers_channels_last(*weight);
    const py::ssize_t item = dtype.itemsize();
    std::array<py::ssize_t, 4> strides{};
    py::ssize_t step = item;
    for (int axis : last.value_or(false) ? std::array{1, 3, 2, 0} : std::array{3, 2, 1, 0}) {
        strides[axis] = step;
        step *= std::max<py::ssize_t>(1, shape[axis]);
    }
    if (count < kPooled) return py::array(dtype, shape, strides);
    return pooled(static_cast<std::size_t>(count) * static_cast<std::size_t>(item), dtype, shape,
                  strides);
}

}  // namespace

void bind_config(py::module_& module) {
    module.attr("__version__") = FASTCONV_VERSION;
    module.attr("compiler") = FASTCONV_COMPILER;
    module.attr("build_type") = FASTCONV_BUILD_TYPE;
    module.attr("sanitize") = FASTCONV_SANITIZE;

    make_result_memory_type();
    module.def("num_threads", &num_threads);
    module.def("set_num_threads", &set_num_threads, py::arg("threads"));
    module.def("places_workers", &places_workers);
    module.def("affinity_cpus", &affinity_cpus);
    module.def("available_cpus", &available_cpus, "By affinity and cgroup quota");

    module.def("built_isas", &built_isas, "Best first");
    module.def("supported_isas", &supported_isas, "Built and supported here, best first");
    module.def("current_isa", [] { return cpu::current_isa().name; });
    module.def("set_process_isa",
               [](const std::optional<std::string>& name) {
                   cpu::set_process_isa(name ? &cpu::find_isa(*name) : nullptr);
               },
               py::arg("name"), "None: back to FASTCONV_ISA or the best there is");
    module.def("set_thread_isa", &set_thread_isa, py::arg("name"));

    module.def("workspace_limit", &workspace_limit);
    module.def("idle_workspace_bytes", [] { return idle_workspace_bytes(); });
    module.def("idle_result_bytes", [] { return idle_workspace_bytes(Use::kResult); });
    module.def("empty", &empty, py::arg("shape"), py::arg("dtype"),
               "An uninitialised array in C order, in memory that comes back to be used again");
    module.def("empty_images", &empty_images, py::arg("shape"), py::arg("dtype"), py::arg("x"),
               py::arg("weight"),
               "An uninitialised (N, C, H, W) result: channels last if x is, where x is both the "
               "order of weight, else C order");
    module.def("release_idle_workspaces", &release_idle_workspaces);
}

}  // namespace fastconv

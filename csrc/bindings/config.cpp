// What this build and this machine are: versions, instruction sets, threads, memory.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/cpu_budget.h"
#include "core/parallel.h"
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

// The array owns a buffer of the list of results, which goes back when the last view of it is gone.
py::array empty(const std::vector<py::ssize_t>& shape, const py::dtype& dtype) {
    std::size_t bytes = static_cast<std::size_t>(dtype.itemsize());
    for (py::ssize_t size : shape) bytes *= static_cast<std::size_t>(size);
    auto buffer = std::make_unique<Workspace>(Workspace::acquire(bytes, Use::kResult));
    void* const data = buffer->data();
    const py::capsule owner(buffer.release(),
                            [](void* workspace) { delete static_cast<Workspace*>(workspace); });
    return py::array(dtype, shape, data, owner);
}

}  // namespace

void bind_config(py::module_& module) {
    module.attr("__version__") = FASTCONV_VERSION;
    module.attr("compiler") = FASTCONV_COMPILER;
    module.attr("build_type") = FASTCONV_BUILD_TYPE;
    module.attr("sanitize") = FASTCONV_SANITIZE;

    module.def("num_threads", &num_threads);
    module.def("set_num_threads", &set_num_threads, py::arg("threads"));
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
    module.def("release_idle_workspaces", &release_idle_workspaces);
}

}  // namespace fastconv

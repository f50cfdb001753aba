// Programs from Python: what this thread calls between begin() and end() is recorded, not run.
#include "core/program.h"

#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>
#include <vector>

#include "bindings/perform.h"
#include "bindings/tensor.h"
#include "core/parallel.h"
#include "ops.h"

namespace fastconv {
namespace {

struct RecordedProgram {
    Program steps;
    std::vector<py::object> arrays;  // keeps what the steps point to
};

thread_local RecordedProgram* recorded = nullptr;

void begin(RecordedProgram& program) {
    if (recorded) throw std::runtime_error("_core: this thread records a program already");
    recorded = &program;
}

void end() { recorded = nullptr; }

using Pairs = std::vector<std::pair<py::array, py::array>>;  // (from, to)

std::vector<std::pair<Tensor, Tensor>> tensors_of(const Pairs& pairs) {
    std::vector<std::pair<Tensor, Tensor>> tensors;
    for (const auto& [from, to] : pairs) {
        py::array target = to;
        tensors.emplace_back(tensor_of(from), writable_tensor_of(target));
        require_alike(tensors.back().first, tensors.back().second);
    }
    return tensors;
}

/// Copies in, the steps, copies out.
void run(const RecordedProgram& program, const Pairs& in, const Pairs& out) {
    const auto inputs = tensors_of(in), outputs = tensors_of(out);
    const cpu::Isa& isa = cpu::current_isa();
    const int threads = num_threads();
    py::gil_scoped_release release;
    for (const auto& [from, to] : inputs) cpu::run_copy(from, to, isa, threads);
    program.steps.run();
    for (const auto& [from, to] : outputs) cpu::run_copy(from, to, isa, threads);
}

std::vector<double> run_timed(const RecordedProgram& program) {
    std::vector<double> seconds(program.steps.size());
    py::gil_scoped_release release;
    program.steps.run_timed(seconds.data());
    return seconds;
}

}  // namespace

bool recording() { return recorded != nullptr; }

void record(std::size_t workspace_bytes, Arrays arrays, std::function<void(void*)> run) {
    for (const py::handle array : arrays)
        if (array) recorded->arrays.push_back(py::reinterpret_borrow<py::object>(array));
    recorded->steps.add(workspace_bytes, std::move(run));
}

void bind_program(py::module_& module) {
    py::class_<RecordedProgram>(module, "Program")
        .def(py::init<>())
        .def("begin", &begin, "What this thread calls from now on becomes steps")
        .def_static("end", &end)
        .def("__len__", [](const RecordedProgram& program) { return program.steps.size(); })
        .def("run", &run, py::arg("inputs"), py::arg("outputs"),
             "Copies (from, to), the steps, copies (from, to); one run at a time")
        .def("run_timed", &run_timed, "The steps alone; seconds of each");
}

}  // namespace fastconv

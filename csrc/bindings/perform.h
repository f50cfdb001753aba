// The last step of a binding whose call may be part of a program: it runs at once, without the GIL,
// or, while this thread records, goes to the program with the arrays that it uses.
#pragma once

#include <pybind11/numpy.h>

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <optional>
#include <utility>

#include "core/workspace.h"

namespace fastconv {

namespace py = pybind11;

using Arrays = std::initializer_list<py::handle>;

inline py::handle handle_of(const std::optional<py::array>& array) {
    return array ? py::handle(*array) : py::handle();
}

bool recording();
void record(std::size_t workspace_bytes, Arrays arrays, std::function<void(void*)> run);

/// run(workspace) with everything it needs inside, by value.
template <class Run>
void perform(std::size_t workspace_bytes, Arrays arrays, Run&& run) {
    if (recording()) return record(workspace_bytes, arrays, std::forward<Run>(run));
    py::gil_scoped_release release;
    const Workspace workspace = Workspace::acquire(workspace_bytes);
    run(workspace.data());
}

}  // namespace fastconv

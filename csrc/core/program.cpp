// Programs; see program.h.
#include "core/program.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/workspace.h"

namespace fastconv {

void Program::add(std::size_t workspace_bytes, Step step) {
    steps_.push_back(std::move(step));
    workspace_bytes_ = std::max(workspace_bytes_, workspace_bytes);
}

void Program::run() const {
    const Workspace workspace = Workspace::acquire(workspace_bytes_);
    for (const Step& step : steps_) step(workspace.data());
}

void Program::run_timed(double* seconds) const {
    using Clock = std::chrono::steady_clock;
    const Workspace workspace = Workspace::acquire(workspace_bytes_);
    auto before = Clock::now();
    for (const Step& step : steps_) {
        step(workspace.data());
        const auto after = Clock::now();
        *seconds++ = std::chrono::duration<double>(after - before).count();
        before = after;
    }
}

}  // namespace fastconv

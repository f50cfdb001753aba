// Parts of pooling's plan that have files of their own.
#pragma once

#include <algorithm>
#include <vector>

#include "core/pool_plan.h"

namespace fastconv::cpu {

/// The runs of one axis, edges first or last as they lie; together they visit every position of the
/// target, each for the first time without `again`.
std::vector<PoolRun> pool_runs(const PoolProblem& problem, const Axis& axis);

/// Positions i of a run whose target lies in [begin, end).
struct RunPart {
    std::int64_t first = 0;
    std::int64_t last = 0;
};

inline RunPart clip_run(const PoolRun& run, std::int64_t begin, std::int64_t end) {
    if (run.target >= begin && run.target + (run.count - 1) * run.target_step < end)
        return {0, run.count};
    const auto before = [&run](std::int64_t bound) {
        const std::int64_t room = bound - run.target;
        return room <= 0 ? 0 : std::min(run.count, (room + run.target_step - 1) / run.target_step);
    };
    return {before(begin), before(end)};
}

/// Source elements [lo, hi) that targets in [begin, end) need; empty: lo == hi.
struct Extent {
    std::int64_t lo = 0;
    std::int64_t hi = 0;
    std::int64_t size() const { return hi - lo; }
};

Extent source_extent(const std::vector<PoolRun>& runs, std::int64_t begin, std::int64_t end);

/// Whether the gradient of the maximum is scattered by index, and that (pool2d_scatter.cpp).
bool scatters(const PoolPlan& plan, int lanes);

template <class T>
void run_scatter(const PoolPlan& plan, const T* grads, const std::int64_t* indices, T* out);

/// 1 / divisor where that is exact, else 0.
template <class T>
T exact_reciprocal(T divisor) {
    const auto whole = static_cast<std::int64_t>(divisor);
    const bool power_of_two = whole > 0 && (whole & (whole - 1)) == 0;
    return power_of_two ? 1 / divisor : T{0};
}

/// Whether the gradient of an average fills dense planes with one share each, and that
/// (pool2d_fill.cpp).
bool fills(const PoolPlan& plan);

template <class T>
void run_fill(const PoolPlan& plan, const T* grads, T* out);

}  // namespace fastconv::cpu

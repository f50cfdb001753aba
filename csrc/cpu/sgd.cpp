// SGD in one pass over parameters, gradients and velocities, whatever their strides: all parameters of
// a model in one call, so that small ones share the threads and cost no call each.
#include "cpu/kernels_sgd.h"

#include <algorithm>

#include "core/float_mode.h"
#include "cpu/grid.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

constexpr double kCost = 0.5;  // nanoseconds an element, roughly

struct Walk {
    Grid grid;
    std::int64_t first_task = 0;
};

Grid grid_of(const SgdOperands& operands) {
    if (!operands.has_velocity) return make_grid({&operands.parameter, &operands.grad});
    return make_grid({&operands.parameter, &operands.grad, &operands.velocity});
}

template <class T>
void run(const std::vector<SgdOperands>& all, const SgdStep& step, const Isa& isa, int threads) {
    const FloatModeScope scope(FloatMode::kIeee);  // the coefficients are rounded on this thread
    const Kernels<T>& kernels = isa.kernels<T>();
    const SgdCoefficients<T> coefficients{
        static_cast<T>(step.rate), static_cast<T>(step.momentum),
        static_cast<T>(step.weight_decay), step.nesterov};
    std::vector<Walk> walks;
    std::int64_t tasks = 0;
    double elements = 0;
    for (const SgdOperands& operands : all) {
        walks.push_back({grid_of(operands), tasks});
        if (!walks.back().grid.empty) tasks += walks.back().grid.tasks();
        elements += static_cast<double>(operands.parameter.count());
    }
    const Access access[] = {kReadWrite, kRead, kReadWrite};
    parallel_for(tasks, threads_for(kCost * elements, threads), FloatMode::kIeee,
                 [&](std::int64_t task, int) {
        const auto after = std::upper_bound(
            walks.begin(), walks.end(), task,
            [](std::int64_t t, const Walk& walk) { return t < walk.first_task; });
        const Walk& walk = *(after - 1);  // an empty one begins where the next does
        const SgdOperands& of = all[static_cast<std::size_t>(after - walks.begin() - 1)];
        T* const data[] = {static_cast<T*>(of.parameter.data), static_cast<T*>(of.grad.data),
                           static_cast<T*>(of.velocity.data)};
        run_tile<T>(walk.grid, data, access, kernels, task - walk.first_task,
                    [&](const Tile<T>& tile) {
            tile.for_lines(walk.grid.operands, [&](std::int64_t n, T* const* at) {
                kernels.sgd->step(n, at[0], at[1], at[2], coefficients);
            });
        });
    });
}

}  // namespace

void run_sgd(const std::vector<SgdOperands>& all, const SgdStep& step, const Isa& isa, int threads) {
    if (all.empty()) return;
    if (all[0].parameter.dtype == DType::kFloat32) return run<float>(all, step, isa, threads);
    run<double>(all, step, isa, threads);
}

}  // namespace fastconv::cpu

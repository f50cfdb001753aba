// SGD in one pass over parameter, gradient and velocity, whatever their strides.
#include "cpu/kernels_sgd.h"

#include "cpu/grid.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

constexpr double kCost = 0.5;  // nanoseconds an element, roughly

template <class T>
void run(const Tensor& parameter, const Tensor& grad, const Tensor* velocity, const SgdStep& step,
         const Isa& isa, int threads) {
    const Grid grid = velocity ? make_grid({&parameter, &grad, velocity})
                               : make_grid({&parameter, &grad});
    const Kernels<T>& kernels = isa.kernels<T>();
    const SgdCoefficients<T> coefficients{
        static_cast<T>(step.rate), static_cast<T>(step.momentum),
        static_cast<T>(step.weight_decay), step.nesterov};
    T* const data[] = {static_cast<T*>(parameter.data), static_cast<T*>(grad.data),
                       velocity ? static_cast<T*>(velocity->data) : nullptr};
    const Access access[] = {kReadWrite, kRead, kReadWrite};
    threads = threads_for(kCost * static_cast<double>(parameter.count()), threads);
    for_tiles<T>(grid, data, access, kernels, threads, [&](const Tile<T>& tile) {
        tile.for_lines(grid.operands, [&](std::int64_t n, T* const* at) {
            kernels.sgd->step(n, at[0], at[1], at[2], coefficients);
        });
    });
}

}  // namespace

void run_sgd(const Tensor& parameter, const Tensor& grad, const Tensor* velocity,
             const SgdStep& step, const Isa& isa, int threads) {
    if (parameter.dtype == DType::kFloat32)
        return run<float>(parameter, grad, velocity, step, isa, threads);
    run<double>(parameter, grad, velocity, step, isa, threads);
}

}  // namespace fastconv::cpu

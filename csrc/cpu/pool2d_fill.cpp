// The gradient of an average whose one window holds the whole image, C order: a plane of equal shares.
//
//     dx[n, c, h, w] = dy[n, c, 0, 0] / divisor
//
// Each plane is filled once, at the pace of memory; lanes would run along channels and their strips be
// transposed back.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/pool2d.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kTaskElems = 32768;

bool one_share(const std::vector<PoolRun>& runs) {
    return runs.size() == 1 && runs[0].taps == 1 && (runs[0].count == 1 || runs[0].source_step == 0);
}

}  // namespace

bool fills(const PoolPlan& plan) {
    if (plan.problem.operation != PoolOperation::kAverageBackward) return false;
    const Strides& to = plan.target.strides;
    const std::int64_t row = plan.target_w > 1 ? plan.target_w : 1;
    const bool dense = (plan.target_w == 1 || to.width_elems == 1) &&
                       (plan.target_h == 1 || to.height_elems == row);
    return dense && plan.target_h * plan.target_w > 1 && one_share(plan.rows) &&
           one_share(plan.cols);
}

template <class T>
void run_fill(const PoolPlan& plan, const T* grads, T* out) {
    const PoolRun &row = plan.rows[0], &col = plan.cols[0];
    const Strides &from = plan.source.strides, &to = plan.target.strides;
    const std::int64_t size = plan.target_h * plan.target_w, planes = plan.batch * plan.channels;
    const std::int64_t block = std::clamp<std::int64_t>(kTaskElems / size, 1, planes);
    const std::int64_t given = plan.problem.divisor_override;
    const T divisor = static_cast<T>(given != 0 ? given : row.divisor * col.divisor);
    const T reciprocal = exact_reciprocal(divisor);
    grads += row.source * from.height_elems + col.source * from.width_elems;
    const std::int64_t tasks = (planes + block - 1) / block;
    parallel_for(tasks, plan.threads, FloatMode::kIeee, [&](std::int64_t task, int) {
        for (std::int64_t p = task * block; p < std::min(planes, (task + 1) * block); ++p) {
            const std::int64_t n = p / plan.channels, c = p % plan.channels;
            const T sum = T{0} + grads[n * from.batch_elems + c * from.channel_elems];
            std::fill_n(out + n * to.batch_elems + c * to.channel_elems, size,
                        reciprocal != 0 ? sum * reciprocal : sum / divisor);
        }
    });
}

template void run_fill(const PoolPlan&, const float*, float*);
template void run_fill(const PoolPlan&, const double*, double*);

}  // namespace fastconv::cpu

// Strides to what a kernel may do with them (cuda/conv2d_operands.h).
#include "cuda/conv2d_operands.h"

namespace fastconv::cuda {
namespace {

bool reads_vectors(const Correlation& phase, const Strides& strides, std::int64_t height,
                   std::int64_t width, std::int64_t channels, std::int64_t group_elems,
                   std::int64_t vec) {
    const auto multiple = [vec](std::int64_t size, std::int64_t elems) {
        return size == 1 || elems % vec == 0;
    };
    return strides.channel_elems == 1 && channels % vec == 0 &&
           multiple(phase.groups, group_elems) && multiple(phase.batch, strides.batch_elems) &&
           multiple(height, strides.height_elems) && multiple(width, strides.width_elems);
}

}  // namespace

bool source_reads_vectors(const Correlation& phase, std::int64_t vec) {
    return reads_vectors(phase, phase.source, phase.source_h, phase.source_w, phase.channels,
                         phase.source_group_elems, vec);
}

bool out_reads_vectors(const Correlation& phase, std::int64_t vec) {
    return reads_vectors(phase, phase.out, phase.out_h, phase.out_w, phase.cols,
                         phase.out_group_elems, vec);
}

CudaWeight weight_for(const CudaConvPlan& plan, const Correlation& phase, WeightLayout layout,
                      std::int64_t vec, bool aligned) {
    const Strides& w = plan.strides.weight;
    const bool forward = plan.direction == Direction::kForward;
    CudaWeight view;
    view.first_elems =
        phase.taps_h.kernel * w.height_elems + phase.taps_w.kernel * w.width_elems;
    view.group_elems = plan.problem.group_out() * w.batch_elems;
    view.col_elems = forward ? w.batch_elems : w.channel_elems;
    view.channel_elems = forward ? w.channel_elems : w.batch_elems;
    view.tap_h_elems = phase.taps_h.kernel_step * w.height_elems;
    view.tap_w_elems = phase.taps_w.kernel_step * w.width_elems;

    const std::int64_t a = phase.taps_h.count, b = phase.taps_w.count, c = phase.channels;
    const std::int64_t depth = a * b * c;
    const bool by_depth = layout == WeightLayout::kDepthCol;
    // Distance between neighbours along depth if it is the same everywhere.
    const std::int64_t step = c > 1 ? view.channel_elems : b > 1 ? view.tap_w_elems : view.tap_h_elems;
    const bool even = (b == 1 || view.tap_w_elems == c * step) &&
                      (a == 1 || view.tap_h_elems == b * c * step);
    const std::int64_t unit = by_depth ? view.col_elems : step;
    const std::int64_t pitch = by_depth ? step : view.col_elems;
    const std::int64_t length = by_depth ? phase.cols : depth;
    view.in_place = aligned && even && (unit == 1 || length == 1) && length % vec == 0 &&
                    pitch >= length && pitch % vec == 0 && view.first_elems % vec == 0 &&
                    (phase.groups == 1 || view.group_elems % vec == 0);
    view.pitch = view.in_place ? pitch : (length + vec - 1) / vec * vec;
    view.packed_group_elems =
        view.in_place ? view.group_elems : view.pitch * (by_depth ? depth : phase.cols);
    return view;
}

}  // namespace fastconv::cuda

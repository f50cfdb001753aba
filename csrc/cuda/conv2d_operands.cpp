// Strides to what a kernel may do with them (cuda/conv2d_operands.h).
#include "cuda/conv2d_operands.h"

#include <algorithm>
#include <climits>

#include "core/ceil_div.h"
#include "cuda/conv2d_pack.h"

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

/// Whether images, rows and columns follow each other forwards, as those of a tensor map.
bool runs_forwards(const Strides& strides, std::int64_t batch, std::int64_t height,
                   std::int64_t width) {
    return (batch == 1 || strides.batch_elems > 0) && (height == 1 || strides.height_elems > 0) &&
           (width == 1 || strides.width_elems > 0);
}

/// Whether a tensor map can say where the weight is: channels or columns are neighbours; the others
/// of the two follow each other forwards, from group to group too; taps may run backwards; all of
/// these strides are multiples of 16 bytes.
bool is_mapped(const CudaWeight& view, const Correlation& phase, std::int64_t vec) {
    const auto tap_fits = [vec](std::int64_t count, std::int64_t elems) {
        return count == 1 || (elems != 0 && elems % vec == 0);
    };
    const bool by_channel = view.channel_elems == 1, by_col = view.col_elems == 1;
    const std::int64_t others = by_channel ? phase.cols : phase.channels;
    const std::int64_t other_elems = by_channel ? view.col_elems : view.channel_elems;
    const bool others_fit = others * phase.groups == 1 ||
                            (other_elems > 0 && other_elems % vec == 0);
    return (by_channel || by_col) && view.first_elems % vec == 0 && others_fit &&
           (phase.groups == 1 || view.group_elems == others * other_elems) &&
           tap_fits(phase.taps_h.count, view.tap_h_elems) &&
           tap_fits(phase.taps_w.count, view.tap_w_elems);
}

}  // namespace

const char* why_not_mapped(const Correlation& phase, std::int64_t vec, bool grad_weight) {
    if (rows_of(phase) == 0) return "needs positions";
    if (!out_reads_vectors(phase, vec) || phase.out_first_elems % vec != 0)
        return "stores 16 bytes at a time: channels last, and multiples of 16 bytes";
    if (!reads_vectors(phase, phase.residual, phase.out_h, phase.out_w, phase.cols,
                       phase.residual_group_elems, vec))
        return "reads residuals 16 bytes at a time";
    if (!runs_forwards(phase.source, phase.batch, phase.source_h, phase.source_w) ||
        !runs_forwards(phase.out, phase.batch, phase.out_h, phase.out_w))
        return "needs images, rows and columns that run forwards in memory";
    if (phase.groups > 1 && (phase.source_group_elems != phase.channels ||
                             (grad_weight && phase.out_group_elems != phase.cols)))
        return "needs groups that follow each other";
    if (phase.groups > 1 && !grad_weight && phase.channels % 64 != 0)
        return "needs groups of multiples of 64 channels";
    const AxisTaps* axes[2] = {&phase.taps_h, &phase.taps_w};
    const std::int64_t out[2] = {phase.out_h, phase.out_w};
    const std::int64_t source[2] = {phase.source_h, phase.source_w};
    for (int i = 0; i < 2; ++i) {
        const std::int64_t last = axes[i]->offset + (out[i] - 1) * axes[i]->step - (source[i] - 1);
        if (axes[i]->step > 8) return "steps by at most 8 pixels";
        if (axes[i]->offset < -128 || axes[i]->offset > 127 || last < -128 || last > 127)
            return "begins and ends at most 128 pixels from the image's edges";
        if ((axes[i]->count - 1) * axes[i]->offset_step > 255)
            return "has taps at most 255 pixels apart";
    }
    return nullptr;
}

PatchLines patch_lines(const std::vector<Correlation>& phases) {
    constexpr std::int64_t kTile = 8;
    PatchLines lines{kTile, kTile};
    for (const Correlation& phase : phases) {
        const AxisTaps &h = phase.taps_h, &w = phase.taps_w;
        if (h.count == 0) continue;
        lines.height = std::max(lines.height, kTile + (h.count - 1) * h.offset_step);
        lines.width = std::max(lines.width, kTile + (w.count - 1) * w.offset_step);
    }
    return lines;
}

const char* why_not_patched(const std::vector<Correlation>& phases, std::int64_t patches,
                            std::int64_t cols) {
    std::int64_t most_taps = 0;
    for (const Correlation& phase : phases) {
        if (phase.taps_h.count == 0) continue;
        if (phase.taps_h.step != 1 || phase.taps_w.step != 1) return "is for a stride of 1";
        constexpr std::int64_t kTile = 8;
        const std::int64_t tiles =
            phase.batch * ceil_div(phase.out_h, kTile) * ceil_div(phase.out_w, kTile);
        if (tiles * kTile * kTile > INT_MAX / 2) return "has too many tiles of 8x8 pixels to count";
        most_taps = std::max(most_taps, phase.taps_h.count * phase.taps_w.count);
    }
    if (most_taps == 1) return "is for several taps";
    const PatchLines lines = patch_lines(phases);
    if (lines.width > 256 || lines.height > 256 ||
        2 * patches * lines.bytes() + kLeastWeightStages * cols * 128 > kPatchRingBytes)
        return "has taps so far apart that its patches do not fit into shared memory";
    return nullptr;
}

const char* why_not_weight_patched(const Correlation& view) {
    const AxisTaps &h = view.taps_h, &w = view.taps_w;
    if (h.count != 3 || w.count != 3 || h.offset_step != 1 || w.offset_step != 1 || h.step != 1 ||
        w.step != 1)
        return "is for 3x3 taps next to each other and a stride of 1";
    return view.out_h % 8 == 0 && view.out_w % 8 == 0 ? nullptr
                                                      : "is for results of whole 8x8 tiles";
}

bool source_reads_vectors(const Correlation& phase, std::int64_t vec) {
    return reads_vectors(phase, phase.source, phase.source_h, phase.source_w, phase.channels,
                         phase.source_group_elems, vec);
}

bool out_reads_vectors(const Correlation& phase, std::int64_t vec) {
    return reads_vectors(phase, phase.out, phase.out_h, phase.out_w, phase.cols,
                         phase.out_group_elems, vec);
}

CudaWeight weight_for(const CudaConvPlan& plan, const Correlation& phase, WeightLayout layout,
                      std::int64_t vec) {
    const bool aligned = plan.aligned.read;
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
    if (layout == WeightLayout::kMapped)
        view.in_place = aligned && is_mapped(view, phase, vec);
    view.pitch = view.in_place ? pitch : (length + vec - 1) / vec * vec;
    view.packed_group_elems =
        view.in_place ? view.group_elems : view.pitch * (by_depth ? depth : phase.cols);
    return view;
}

}  // namespace fastconv::cuda

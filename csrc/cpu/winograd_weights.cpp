// Taps to points; see winograd_weights.h.
#include "cpu/winograd_weights.h"

#include <algorithm>
#include <optional>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/isa.h"
#include "cpu/kernels_gemm.h"
#include "cpu/winograd_choice.h"
#include "cpu/winograd_tiles.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kTransformChannels = 32;  // whose taps are in L1 or L2 between packing and use

// `count` taps of an axis, the stride apart; their kernel indices count from the least, which is returned.
std::int64_t cut_taps(AxisTaps& taps, std::int64_t first, std::int64_t count) {
    const std::int64_t begin = taps.kernel + first * taps.kernel_step;
    taps.kernel_step *= taps.step;
    const std::int64_t least = std::min(begin, begin + (count - 1) * taps.kernel_step);
    taps.count = count;
    taps.kernel = begin - least;
    return least;
}

/// `phase` with the taps of a subkernel, and where in a filter those begin.
struct CutPhase {
    Correlation phase;
    std::int64_t first_elem;

    CutPhase(const Correlation& whole, const WeightView<float>& weight, const Subkernel& taps) : phase(whole) {
        first_elem = cut_taps(phase.taps_h, taps.row, taps.height) * weight.row_elems;
        first_elem += cut_taps(phase.taps_w, taps.col, taps.width) * weight.tap_elems;
    }
};

}  // namespace

TransformedWeights::TransformedWeights(const ConvPlan& plan)
    : groups_(plan.phases[0].groups), subkernels_(plan.winograd.subkernels()) {
    const Correlation& phase = plan.phases[0];
    const GemmKernels<float>& gemm = *plan.isa->kernels<float>().gemm;
    const Panels<float> panels(gemm, phase.cols);
    const std::int64_t points = winograd_variant(plan).points(), last = panels.count - 1;
    panel_elems_ = points * odd_lines(plan.winograd.channels * panels.width);
    subkernel_elems_ =
        panels.count == 0
            ? 0
            : last * panel_elems_ +
                  points * odd_lines(plan.winograd.channels * panels.panel_width(last, gemm.lanes));
}

std::int64_t TransformedWeights::first(std::int64_t group, std::int64_t subkernel,
                                       std::int64_t panel) const {
    return (group * subkernels_ + subkernel) * subkernel_elems_ + panel * panel_elems_;
}

WinogradWeights::WinogradWeights(const ConvPlan& plan, const WeightView<float>& weight)
    : plan_(plan), phase_(plan.phases[0]), kernels_(plan.isa->kernels<float>()),
      variant_(kernels_.winograd->variants[plan.winograd.variant]), weight_(weight) {}

std::int64_t WinogradWeights::scratch_elems() const {
    const std::int64_t r = variant_.r;
    if (plan_.winograd.folded) return r * r * kTransformChannels * widest_panel(*kernels_.gemm);
    std::int64_t staging = several() ? 0 : pack_staging_elems(phase_, kernels_, weight_);
    // Of several, fewer taps may need more: what lies between many may be too much to be staged.
    for (std::int64_t height = 1; several() && height <= std::min(r, phase_.taps_h.count); ++height)
        for (std::int64_t width = 1; width <= std::min(r, phase_.taps_w.count); ++width) {
            const CutPhase cut(phase_, weight_, {0, 0, height, width});
            staging = std::max(staging, pack_staging_elems(cut.phase, kernels_, weight_));
        }
    return r * r * kTransformChannels * widest_panel(*kernels_.gemm) + staging;
}

bool WinogradWeights::in_place() const {
    const std::int64_t row = phase_.taps_h.kernel_step * weight_.row_elems;
    const std::int64_t tap = phase_.taps_w.kernel_step * weight_.tap_elems;
    return !plan_.winograd.folded && weight_.col_elems == 1 && row == variant_.r * tap;
}

// Packed taps (height, width) become (r, r), zeros at the end of each line and of the lines.
void WinogradWeights::complete_taps(const Subkernel& taps, const PanelPiece<float>& piece) const {
    const std::int64_t elems = piece.channels * piece.width;
    for (std::int64_t y = variant_.r - 1; y >= 0; --y)
        for (std::int64_t x = variant_.r - 1; x >= 0; --x) {
            float* to = piece.to + (y * variant_.r + x) * piece.tap_elems;
            const float* from = piece.to + (y * taps.width + x) * piece.tap_elems;
            if (y >= taps.height || x >= taps.width) std::fill_n(to, elems, 0.0f);
            else if (from != to) std::copy_n(from, elems, to);
        }
}

// (tap, channel, column) of channels (phase_y, phase_x, c), zeros where the kernel has no tap.
void WinogradWeights::fold_taps(const Subkernel& taps, const PanelPiece<float>& piece) const {
    const std::int64_t pace_y = phase_.taps_h.step, pace_x = phase_.taps_w.step;
    const std::int64_t channels = phase_.channels, run = pace_x * channels, r = variant_.r;
    const bool dense = weight_.channel_elems == 1 && weight_.tap_elems == channels;
    const float* columns = weight_.data + piece.group * weight_.group_elems + piece.col * weight_.col_elems;
    std::fill_n(piece.to, r * r * piece.tap_elems, 0.0f);
    for (std::int64_t tap = 0; tap < r * r; ++tap)
        for (std::int64_t phase_y = 0; phase_y < pace_y; ++phase_y) {
            const std::int64_t y = taps.row + tap / r * pace_y + phase_y;
            const std::int64_t x = taps.col + tap % r * pace_x;
            // Of a run of the kernel's row, and of its elements those that are among the piece's channels.
            const std::int64_t first = phase_y * run;
            const std::int64_t begin = std::max<std::int64_t>(piece.channel - first, 0);
            const std::int64_t end = std::min({piece.channel + piece.channels - first, run,
                                               (phase_.taps_w.count - x) * channels});
            if (y >= phase_.taps_h.count || begin >= end) continue;
            const float* from = columns + y * weight_.row_elems + x * weight_.tap_elems;
            float* to = piece.to + tap * piece.tap_elems + (first - piece.channel) * piece.width;
            if (dense) {
                kernels_.copy->copy(piece.cols, end - begin, {from + begin, weight_.col_elems, 1},
                                    {to + begin * piece.width, 1, piece.width});
                continue;
            }
            for (std::int64_t c = 0; c < channels; ++c) {  // element x * channels + c of the run
                const std::int64_t left = ceil_div(std::max<std::int64_t>(begin - c, 0), channels);
                const std::int64_t right = ceil_div(std::max<std::int64_t>(end - c, 0), channels);
                if (left < right)
                    kernels_.copy->copy(
                        piece.cols, right - left,
                        {from + left * weight_.tap_elems + c * weight_.channel_elems, weight_.col_elems,
                         weight_.tap_elems},
                        {to + (left * channels + c) * piece.width, 1, channels * piece.width});
            }
        }
}

void WinogradWeights::transform_lines(const PanelPiece<float>& piece, WinogradWeight<float>& line,
                                      const float* taps, std::int64_t channel_elems,
                                      float* points) const {
    line.vectors = static_cast<int>(piece.width / kernels_.gemm->lanes);
    for (std::int64_t c = 0; c < piece.channels; ++c) {
        line.taps = taps + c * channel_elems;
        line.points = points + c * piece.width;
        variant_.weight(line);
    }
}

void WinogradWeights::transform(PanelPiece<float> piece, std::int64_t index, float* points,
                                std::int64_t point_elems, float* scratch) const {
    const Subkernel taps = subkernel(plan_, index);
    const bool whole = taps.height == variant_.r && taps.width == variant_.r;
    std::optional<CutPhase> cut;  // a copy that calls of a few us feel
    if (several() && !plan_.winograd.folded) cut.emplace(phase_, weight_, taps);
    const Correlation& phase = cut ? cut->phase : phase_;
    WeightView<float> weight = weight_;
    if (cut) weight.data += cut->first_elem;
    WinogradWeight<float> line;
    line.point_elems = point_elems;
    if (whole && in_place() && piece.cols == piece.width) {
        line.tap_elems = phase.taps_w.kernel_step * weight.tap_elems;
        const float* first = weight.data + piece.group * weight.group_elems + piece.col +
                             phase.taps_h.kernel * weight.row_elems +
                             phase.taps_w.kernel * weight.tap_elems +
                             piece.channel * weight.channel_elems;
        transform_lines(piece, line, first, weight.channel_elems, points);
    } else {
        const std::int64_t first = piece.channel, channels = piece.channels;
        piece.to = scratch;
        line.tap_elems = piece.tap_elems = kTransformChannels * piece.width;
        float* staged = scratch + variant_.r * variant_.r * piece.tap_elems;
        for (std::int64_t c = 0; c < channels; c += kTransformChannels) {
            piece.channel = first + c;
            piece.channels = std::min(kTransformChannels, channels - c);
            if (plan_.winograd.folded) {
                fold_taps(taps, piece);
            } else {
                pack_panel(phase, kernels_, weight, piece, staged);
                if (!whole) complete_taps(taps, piece);
            }
            transform_lines(piece, line, scratch, piece.width, points + c * piece.width);
        }
    }
}

std::int64_t transform_tasks(const ConvPlan& plan) {
    const Correlation& phase = plan.phases[0];
    const Panels<float> panels(*plan.isa->kernels<float>().gemm, phase.cols);
    return phase.groups * plan.winograd.subkernels() * panels.count *
           ceil_div(plan.winograd.channels, kTransformChannels);
}

void transform_weights(const ConvPlan& plan, const void* weight, float* transformed) {
    const Correlation& phase = plan.phases[0];
    const Kernels<float>& kernels = plan.isa->kernels<float>();
    const WinogradWeights weights(plan, weight_view<float>(plan, weight));
    const Panels<float> panels(*kernels.gemm, phase.cols);
    const TransformedWeights layout(plan);
    const std::int64_t channels = plan.winograd.channels, chunks = ceil_div(channels, kTransformChannels);
    const std::size_t scratch = static_cast<std::size_t>(weights.scratch_elems()) * sizeof(float);
    parallel_for(transform_tasks(plan), plan.threads, FloatMode::kFlushDenormals,
                 [&](std::int64_t task, int) {
        const std::int64_t c = task % chunks * kTransformChannels, panel = task / chunks % panels.count;
        const std::int64_t index = task / chunks / panels.count % plan.winograd.subkernels();
        const std::int64_t group = task / chunks / panels.count / plan.winograd.subkernels();
        const std::int64_t width = panels.panel_width(panel, kernels.gemm->lanes);
        weights.transform({group, panels.first_col(panel), panels.panel_cols(panel), width, c,
                           std::min(kTransformChannels, channels - c)},
                          index, transformed + layout.first(group, index, panel) + c * width,
                          odd_lines(channels * width),
                          static_cast<float*>(thread_scratch(scratch)));
    });
}

}  // namespace fastconv::cpu

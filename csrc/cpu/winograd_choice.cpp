#include "cpu/winograd_choice.h"

#include <algorithm>
#include <utility>

#include "core/ceil_div.h"
#include "cpu/isa.h"

namespace fastconv::cpu {
namespace {

// Over eight points the rounding error is four times that over six (docs/numerics.md).
constexpr int kLargestExactAlpha = 6;

// Of which a vector would not be full.
constexpr std::int64_t kFewChannels = 16;
// So that the least block of tiles fits into a thread's scratch whatever the batch.
constexpr std::int64_t kMostFolded = 256;

// 5x5 by its own variants: as many products as four subkernels of F(4,3), and a quarter of the weights' points.
int taps_of(const Correlation& phase) {
    const auto five = [](const AxisTaps& taps) { return taps.count == 5 && taps.step == 1; };
    return five(phase.taps_h) && five(phase.taps_w) ? 5 : 3;
}

// An axis' taps, of which every step-th meet the same pixels, in runs of up to r. Folded, those of phase 0 stand
// for all.
struct TapRuns {
    const AxisTaps& taps;
    std::int64_t r;
    bool folded;

    std::int64_t phases() const { return folded ? 1 : std::min(taps.step, taps.count); }
    std::int64_t taps_in(std::int64_t phase) const { return ceil_div(taps.count - phase, taps.step); }
    std::int64_t count() const {
        return sum([](std::int64_t) { return std::int64_t{1}; });
    }
    /// The sum of of_run(taps) over the runs.
    template <class OfRun>
    std::int64_t sum(OfRun&& of_run) const {
        const auto of_phase = [&](std::int64_t in_phase) {
            return in_phase / r * of_run(r) + (in_phase % r > 0 ? of_run(in_phase % r) : 0);
        };
        // The first phases have a tap more than the others.
        const std::int64_t most = taps_in(0), first = folded ? 1 : taps.count - (most - 1) * taps.step;
        return first * of_phase(most) + (phases() > first ? (phases() - first) * of_phase(most - 1) : 0);
    }
    /// The first tap and the taps of a run.
    std::pair<std::int64_t, std::int64_t> run(std::int64_t index) const {
        std::int64_t phase = 0;
        for (; index >= ceil_div(taps_in(phase), r); ++phase) index -= ceil_div(taps_in(phase), r);
        return {phase + index * r * taps.step, std::min(r, taps_in(phase) - index * r)};
    }
};

/// Whether runs of up to 4 taps by F(3,4) have at least a tenth fewer products than runs of 3 by F(4,3), over the
/// same six points: 4x4, 7x7, 8x8 have.
bool is_better_by_4(const Correlation& phase, bool folded) {
    if (phase.taps_h.count <= 3 && phase.taps_w.count <= 3) return false;
    const auto products = [&](std::int64_t r) {
        const auto points = [r](std::int64_t taps) { return std::int64_t{taps == r ? 6 : 5}; };
        return static_cast<double>(TapRuns{phase.taps_h, r, folded}.sum(points) *
                                   TapRuns{phase.taps_w, r, folded}.sum(points));
    };
    return products(4) / (3 * 3) < 0.9 * products(3) / (4 * 4);
}

// Of the last tile along an axis.
int last_outputs(std::int64_t outputs, const WinogradVariant<float>& variant) {
    const std::int64_t rest = outputs % variant.m;
    return rest == 0 || !variant.trims() ? variant.m : static_cast<int>(rest);
}

bool allowed(const ConvPlan& plan, const WinogradVariant<float>& variant) {
    return plan.wide_tiles || variant.alpha() <= kLargestExactAlpha;
}

}  // namespace

const WinogradVariant<float>& winograd_variant(const ConvPlan& plan) {
    return plan.isa->kernels<float>().winograd->variants[plan.winograd.variant];
}

bool winograd_allowed(const ConvPlan& plan) { return allowed(plan, winograd_variant(plan)); }

Subkernel subkernel(const ConvPlan& plan, std::int64_t index) {
    const Correlation& phase = plan.phases[0];
    const std::int64_t r = winograd_variant(plan).r, across = plan.winograd.subkernels_w;
    const bool folded = plan.winograd.folded;
    const auto [row, height] = TapRuns{phase.taps_h, r, folded}.run(index / across);
    const auto [col, width] = TapRuns{phase.taps_w, r, folded}.run(index % across);
    return {row, col, height, width};
}

const char* choose_winograd(ConvPlan& plan, int m) {
    const Conv& conv = plan.problem;
    if (conv.dtype != DType::kFloat32) return "winograd: float64 has none (its rounding is larger)";
    for (const Axis* axis : {&conv.height, &conv.width}) {
        if (axis->dilation != 1) return "winograd: dilated";
        if (axis->stride != 1 && plan.direction == Direction::kGradInput)
            return "winograd: grad_input of a stride is several convolutions";
        if (axis->stride > axis->kernel) return "winograd: the stride is larger than the kernel";
        if (axis->kernel == 1) return "winograd: the kernel has one row or column of taps";
    }
    const Correlation& phase = plan.phases[0];
    const WinogradKernels<float>& kernels = *plan.isa->kernels<float>().winograd;
    WinogradPlan& winograd = plan.winograd;
    const std::int64_t strides = phase.taps_h.step * phase.taps_w.step;
    winograd.folded = plan.direction == Direction::kForward && strides > 1 &&
                      phase.channels < kFewChannels && phase.channels * strides <= kMostFolded;
    winograd.channels = phase.channels * (winograd.folded ? strides : 1);
    const int taps = taps_of(phase);
    int r = taps;
    if (m == 4 && taps == 3 && is_better_by_4(phase, winograd.folded)) m = 3, r = 4;
    for (int i = 0; i < WinogradKernels<float>::kVariants; ++i)
        if (kernels.variants[i].m == m && kernels.variants[i].r == r) winograd.variant = i, winograd.m = m;
    if (winograd.m == 0) return "winograd6: a 5x5 kernel has winograd2 and winograd4";
    if (plan.strides.pooled && !winograd_variant(plan).pools())
        return "winograd4: of this kernel tiles have 3 x 3 outputs, which do not pool";
    winograd.subkernels_h = TapRuns{phase.taps_h, r, winograd.folded}.count();
    winograd.subkernels_w = TapRuns{phase.taps_w, r, winograd.folded}.count();
    winograd.tiles_h = ceil_div(phase.out_h, m);
    winograd.tiles_w = ceil_div(phase.out_w, m);
    // Of the rows and columns that a pooling leaves out the tiles keep the points, and so the bits.
    const auto last = [&plan](std::int64_t tiles, std::int64_t outputs, const Axis& axis) {
        if (plan.strides.pooled) outputs = std::min<std::int64_t>(axis.out, tiles * plan.winograd.m);
        return last_outputs(outputs, winograd_variant(plan));
    };
    winograd.last_h = last(winograd.tiles_h, phase.out_h, conv.height);
    winograd.last_w = last(winograd.tiles_w, phase.out_w, conv.width);
    return nullptr;
}

int points_of(const WinogradVariant<float>& variant, std::int64_t taps, int outputs) {
    const int points = outputs + variant.r - 1;
    const bool has_infinity = points % 2 == 0;
    return variant.trims() && taps < variant.r && has_infinity ? points - 1 : points;
}

bool has_point(const WinogradVariant<float>& variant, const Subkernel& taps, std::int64_t point) {
    const auto has = [&variant](std::int64_t count, std::int64_t p) {
        const int points = points_of(variant, count, variant.m);
        return points == variant.alpha() || variant.uses(points, static_cast<int>(p));
    };
    return has(taps.height, point / variant.alpha()) && has(taps.width, point % variant.alpha());
}

WinogradWork work_of_image(const ConvPlan& plan, const WinogradVariant<float>& variant, bool trimmed) {
    const Correlation& phase = plan.phases[0];
    if (phase.out_h * phase.out_w == 0) return {};
    // Points of an axis' tiles.
    const auto points = [&](std::int64_t outputs, std::int64_t taps) {
        const int whole = points_of(variant, taps, variant.m);
        const int last = trimmed ? points_of(variant, taps, last_outputs(outputs, variant)) : whole;
        return (ceil_div(outputs, variant.m) - 1) * whole + last;
    };
    const auto of_all_runs = [&](std::int64_t outputs, const AxisTaps& taps) {
        return TapRuns{taps, variant.r, plan.winograd.folded}.sum(
            [&](std::int64_t count) { return points(outputs, count); });
    };
    return {of_all_runs(phase.out_h, phase.taps_h) * of_all_runs(phase.out_w, phase.taps_w),
            points(phase.out_h, variant.r) * points(phase.out_w, variant.r)};
}

const char* decline_winograd(const ConvPlan& plan, double direct, WinogradCost cost) {
    const WinogradVariant<float>& variant = winograd_variant(plan);
    constexpr double kGain = 0.92;  // below it the model's own error decides
    if (!allowed(plan, variant))
        return "possible, but its rounding error needs float32 precision \"high\"";
    const double mine = cost(plan, variant);
    if (mine > kGain * direct) return "possible, but by the cost model direct is as fast";
    for (const WinogradVariant<float>& other : plan.isa->kernels<float>().winograd->variants) {
        if (other.r != variant.r || other.m == variant.m || !allowed(plan, other)) continue;
        if (cost(plan, other) >= mine) continue;
        switch (other.m) {
            case 2: return "possible, but by the cost model winograd2 is faster";
            case 4: return "possible, but by the cost model winograd4 is faster";
            default: return "possible, but by the cost model winograd6 is faster";
        }
    }
    return nullptr;
}

}  // namespace fastconv::cpu

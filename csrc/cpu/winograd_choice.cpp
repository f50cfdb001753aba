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
        std::int64_t runs = 0;
        for (std::int64_t phase = 0; phase < phases(); ++phase) runs += ceil_div(taps_in(phase), r);
        return runs;
    }
    /// The first tap and the taps of a run.
    std::pair<std::int64_t, std::int64_t> run(std::int64_t index) const {
        std::int64_t phase = 0;
        for (; index >= ceil_div(taps_in(phase), r); ++phase) index -= ceil_div(taps_in(phase), r);
        return {phase + index * r * taps.step, std::min(r, taps_in(phase) - index * r)};
    }
};

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
    for (int i = 0; i < WinogradKernels<float>::kVariants; ++i) {
        if (kernels.variants[i].m != m || kernels.variants[i].r != taps_of(phase)) continue;
        winograd.variant = i;
        winograd.m = m;
    }
    if (winograd.m == 0) return "winograd6: a 5x5 kernel has winograd2 and winograd4";
    const int r = kernels.variants[winograd.variant].r;
    const std::int64_t strides = phase.taps_h.step * phase.taps_w.step;
    winograd.folded = plan.direction == Direction::kForward && strides > 1 &&
                      phase.channels < kFewChannels && phase.channels * strides <= kMostFolded;
    winograd.channels = phase.channels * (winograd.folded ? strides : 1);
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

int outputs_of_taps(const WinogradVariant<float>& variant, std::int64_t taps, int outputs) {
    const bool has_infinity = (outputs + variant.r - 1) % 2 == 0;
    return variant.trims() && taps < variant.r && has_infinity ? outputs - 1 : outputs;
}

bool has_point(const WinogradVariant<float>& variant, const Subkernel& taps, std::int64_t point) {
    const auto has = [&variant](std::int64_t count, std::int64_t p) {
        const int outputs = outputs_of_taps(variant, count, variant.m);
        return outputs == variant.m || variant.uses(outputs + variant.r - 1, static_cast<int>(p));
    };
    return has(taps.height, point / variant.alpha()) && has(taps.width, point % variant.alpha());
}

WinogradWork work_of_image(const ConvPlan& plan, const WinogradVariant<float>& variant, bool trimmed) {
    const Correlation& phase = plan.phases[0];
    if (phase.out_h * phase.out_w == 0) return {};
    // Points of an axis' tiles.
    const auto points = [&](std::int64_t outputs, std::int64_t taps) {
        const int whole = outputs_of_taps(variant, taps, variant.m);
        const int last = trimmed ? outputs_of_taps(variant, taps, last_outputs(outputs, variant)) : whole;
        return (ceil_div(outputs, variant.m) - 1) * (whole + variant.r - 1) + last + variant.r - 1;
    };
    const auto of_all_runs = [&](std::int64_t outputs, const AxisTaps& taps) {
        const TapRuns runs{taps, variant.r, plan.winograd.folded};
        const auto of_phase = [&](std::int64_t count) {
            const std::int64_t rest = count % variant.r;
            return count / variant.r * points(outputs, variant.r) + (rest > 0 ? points(outputs, rest) : 0);
        };
        // The first phases have a tap more than the others.
        const std::int64_t most = runs.taps_in(0), phases = runs.phases();
        const std::int64_t first = plan.winograd.folded ? 1 : taps.count - (most - 1) * taps.step;
        return first * of_phase(most) + (phases > first ? (phases - first) * of_phase(most - 1) : 0);
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

#include "cpu/winograd_choice.h"

#include <algorithm>

#include "core/ceil_div.h"
#include "cpu/isa.h"

namespace fastconv::cpu {
namespace {

// Over eight points the rounding error is four times that over six (docs/numerics.md).
constexpr int kLargestExactAlpha = 6;

// 5x5 by its own variants: as many products as four subkernels of F(4,3), and a quarter of the weights' points.
int taps_of(const Correlation& phase) { return phase.taps_h.count == 5 && phase.taps_w.count == 5 ? 5 : 3; }

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
    const std::int64_t row = index / across * r, col = index % across * r;
    return {row, col, std::min(r, phase.taps_h.count - row), std::min(r, phase.taps_w.count - col)};
}

const char* choose_winograd(ConvPlan& plan, int m) {
    const Conv& conv = plan.problem;
    if (conv.dtype != DType::kFloat32) return "winograd: float64 has none (its rounding is larger)";
    for (const Axis* axis : {&conv.height, &conv.width})
        if (axis->stride != 1 || axis->dilation != 1) return "winograd: strided or dilated";
    if (conv.height.kernel == 1 || conv.width.kernel == 1)
        return "winograd: the kernel has one row or column of taps";
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
    winograd.subkernels_h = ceil_div(phase.taps_h.count, r);
    winograd.subkernels_w = ceil_div(phase.taps_w.count, r);
    winograd.tiles_h = (phase.out_h + m - 1) / m;
    winograd.tiles_w = (phase.out_w + m - 1) / m;
    return nullptr;
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

// Dispatch of convolution: the ordered candidates of each direction, and the choice among them.
#include "cpu/conv2d.h"

#include <stdexcept>

#include "core/workspace.h"
#include "cpu/winograd_choice.h"

namespace fastconv::cpu {
namespace {

struct CandidateList {
    const Candidate* const* begin_;
    const Candidate* const* end_;
    const Candidate* const* begin() const { return begin_; }
    const Candidate* const* end() const { return end_; }
};

// Best first: a special case before the general one.
CandidateList candidates(Direction direction) {
    static const Candidate* const dense[] = {
        &conv2d_depthwise, &conv2d_pointwise, &conv2d_winograd6, &conv2d_winograd4,
        &conv2d_winograd2, &conv2d_direct,    &conv2d_im2col,    &conv2d_naive};
    static const Candidate* const grad_weight[] = {
        &conv2d_depthwise,             &conv2d_grad_weight_pointwise,
        &conv2d_grad_weight_winograd6, &conv2d_grad_weight_winograd4,
        &conv2d_grad_weight_winograd2, &conv2d_grad_weight_direct,
        &conv2d_grad_weight_im2col,    &conv2d_naive};
    if (direction == Direction::kGradWeight) return {std::begin(grad_weight), std::end(grad_weight)};
    return {std::begin(dense), std::end(dense)};
}

/// The whole plan, or why not: because it cannot be, or because `auto` passes it by. The last resort, naive,
/// needs no workspace.
const char* plan_candidate(const Candidate& candidate, ConvPlan& plan, bool automatic) {
    const char* reason = candidate.plan(plan);
    if (!reason && automatic && candidate.decline) reason = candidate.decline(plan);
    if (!reason && candidate.complete) reason = candidate.complete(plan);
    if (!reason && automatic && plan.workspace_bytes > workspace_limit())
        reason = "possible, but needs more workspace than FASTCONV_WORKSPACE_MB allows";
    return reason;
}

bool is_winograd(Algorithm algorithm) {
    return algorithm == Algorithm::kWinograd2 || algorithm == Algorithm::kWinograd4 ||
           algorithm == Algorithm::kWinograd6;
}

/// The Winograd plan of least cost that the precision allows.
ConvPlan plan_winograd(const ConvPlan& blank, const Candidate*& taken) {
    ConvPlan best;
    const char* reason = nullptr;
    taken = nullptr;
    for (const Candidate* candidate : candidates(blank.direction)) {
        if (!is_winograd(candidate->algorithm)) continue;
        ConvPlan plan = blank;
        plan.algorithm = candidate->algorithm;
        const char* refused = plan_candidate(*candidate, plan, false);
        if (refused) reason = refused;
        if (refused || !winograd_allowed(plan)) continue;
        if (taken && plan.winograd.cost >= best.winograd.cost) continue;
        best = plan;
        taken = candidate;
    }
    if (!taken) throw std::invalid_argument(reason);
    return best;
}

}  // namespace

ConvPlan plan_conv2d(const Conv& problem, Direction direction, const ConvStrides& strides,
                     const Isa& isa, int threads, std::optional<Algorithm> forced, bool packed,
                     bool wide_tiles) {
    ConvPlan blank;
    blank.problem = problem;
    blank.direction = direction;
    blank.strides = strides;
    blank.isa = &isa;
    blank.threads = threads;
    blank.wide_tiles = wide_tiles;
    if (forced == Algorithm::kWinograd) {
        const Candidate* taken = nullptr;
        ConvPlan plan = plan_winograd(blank, taken);
        if (packed && taken->prepack) taken->prepack(plan);
        return plan;
    }
    for (const Candidate* candidate : candidates(direction)) {
        if (forced && *forced != candidate->algorithm) continue;
        ConvPlan plan = blank;
        plan.algorithm = candidate->algorithm;
        const char* reason = strides.pooled && !is_winograd(candidate->algorithm)
                                 ? "does not pool what it computes"
                                 : plan_candidate(*candidate, plan, !forced);
        if (reason && forced) throw std::invalid_argument(reason);
        if (!reason && packed && candidate->prepack) candidate->prepack(plan);
        if (!reason) return plan;
        blank.rejected[static_cast<int>(candidate->algorithm)] = reason;
    }
    if (forced) throw std::invalid_argument("does not compute this direction");
    throw std::invalid_argument("every algorithm needs more workspace than FASTCONV_WORKSPACE_MB");
}

bool adds_residual(const ConvPlan& plan) {
    return plan.direction == Direction::kForward ||
           (plan.direction == Direction::kGradInput &&
            (plan.algorithm == Algorithm::kDirect || plan.algorithm == Algorithm::kPointwise ||
             is_winograd(plan.algorithm)));
}

void run_conv2d(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    for (const Candidate* candidate : candidates(plan.direction))
        if (candidate->algorithm == plan.algorithm)
            return candidate->run(plan, pointers, workspace);
}

void pack_conv2d(const ConvPlan& plan, const void* weight, void* packed) {
    if (plan.packed_format <= 1) pack_panels(plan, weight, packed);
    else pack_transformed(plan, weight, packed);
}

}  // namespace fastconv::cpu

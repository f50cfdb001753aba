// plan_conv2d on CUDA: the ordered list of algorithms (depthwise, direct or pointwise, naive), and for
// the implicit GEMM the kernel, its splits and where packed weights and partial sums lie in the
// workspace. Pure host code: a plan can be made for a device that is not there.
#include <algorithm>
#include <climits>
#include <initializer_list>
#include <stdexcept>

#include "core/phases.h"
#include "core/workspace.h"
#include "cuda/conv2d_operands.h"
#include "cuda/conv2d_pack.h"
#include "cuda/conv_kernels.h"
#include "cuda/matrix_problem.h"
#include "cuda/selection.h"

namespace fastconv::cuda {
namespace {

constexpr std::int64_t kWorkspaceAlignment = 256;
constexpr std::int64_t kMostTaps = 1024;  // of grad_weight: more were never tried

bool fits_int(std::int64_t value) { return value <= INT_MAX / 2; }

/// What tensor cores may multiply; float32 is what they do not have.
Arithmetic arithmetic_of(DType dtype, Precision precision) {
    if (dtype == DType::kFloat16) return Arithmetic::kFloat16;
    if (dtype == DType::kBFloat16) return Arithmetic::kBFloat16;
    if (precision == Precision::kTf32) return Arithmetic::kTf32;
    return precision == Precision::kHigh ? Arithmetic::k3xTf32 : Arithmetic::kFloat32;
}

const char* why_not(unsigned arithmetics, Arithmetic wanted) {
    if (arithmetics & bit(wanted)) return nullptr;
    const bool float32 = wanted == Arithmetic::kFloat32 || wanted == Arithmetic::kTf32 ||
                         wanted == Arithmetic::k3xTf32;
    if (float32 && (arithmetics & bit(Arithmetic::k3xTf32)))
        return "is for fc.float32_precision(\"high\"): each product by three of tf32";
    if (float32 && (arithmetics & bit(Arithmetic::kTf32)))
        return "multiplies no exact float32 (fc.float32_precision(\"tf32\") allows it)";
    return "does not have this dtype or precision";
}

// ---- the implicit GEMM -----------------------------------------------------------------------------

const char* too_large(const Correlation& phase) {
    const bool fits = fits_int(rows_of(phase)) && fits_int(depth_of(phase)) &&
                      fits_int(phase.cols) && fits_int(phase.source_h) && fits_int(phase.source_w) &&
                      phase.groups <= 65535;
    return fits ? nullptr : "a count of its matrix view exceeds 2^30, or groups 65535";
}

const char* why_not_patches(const CorrelationKernel& kernel, const CudaConvPlan& plan) {
    return why_not_patched(plan.phases, kernel.patches, kernel.block_cols);
}
const char* why_not_patches(const GradWeightKernel&, const CudaConvPlan& plan) {
    return why_not_weight_patched(plan.phases.front());
}

template <class Kernel>
const char* why_not(const Kernel& kernel, const CudaConvPlan& plan, Arithmetic arithmetic,
                    const DeviceInfo& device) {
    if (kernel.capability > device.capability) return "needs a newer device";
    if (kernel.last_capability < device.capability) return "needs an older device's instructions";
    if (const char* reason = why_not(kernel.arithmetics, arithmetic)) return reason;
    if (kernel.shared_bytes > static_cast<std::int64_t>(device.shared_bytes))
        return "needs more shared memory than a block may have here";
    if (!plan.vector && !kernel.scalar)
        return "reads 16 bytes at a time: channels last, aligned, and multiples of 16 bytes";
    if (!kernel.mapped) return nullptr;
    const bool grad_weight = plan.direction == Direction::kGradWeight;
    if (!grad_weight && !plan.aligned.written)
        return "stores 16 bytes at a time: result and residual aligned";
    for (const Correlation& phase : plan.phases) {
        if (depth_of(phase) == 0) continue;
        const char* reason =
            why_not_mapped(phase, 16 / plan.problem.element_bytes(), grad_weight);
        if (reason != nullptr) return reason;
    }
    return kernel.patches > 0 ? why_not_patches(kernel, plan) : nullptr;
}

/// Without splits, to where a correlation's result or an ordered weight lies.
bool stores(const CorrelationKernel&, const CudaConvPlan&) { return true; }
bool stores(const GradWeightKernel& kernel, const CudaConvPlan& plan) {
    return kernel.stores && (plan.aligned.written || !kernel.mapped);
}

/// The best splits where phases, about equal, are launched in turn.
Split best_split_in_turn(MatrixProblem problem, const TileShape& tile, const DeviceInfo& device,
                         std::int64_t workspace) {
    const std::int64_t phases = std::max<std::int64_t>(problem.phases, 1);
    problem.m = (problem.m + phases - 1) / phases;
    problem.source_pixels = (problem.source_pixels + phases - 1) / phases;
    problem.phases = 1;
    Split split = best_split(problem, tile, device, workspace / phases);
    split.tiles *= phases;
    split.cycles *= static_cast<double>(phases);
    return split;
}

/// The cheapest kernel of a table for the problem; adds what it rejects to the plan.
template <class Table>
void choose(CudaConvPlan& plan, const Table& table, MatrixProblem problem, const DeviceInfo& device,
            Arithmetic arithmetic, const std::string& forced) {
    const bool in_order = !problem.always_partial;
    for (const auto& kernel : table) {
        if (!forced.empty() && forced != kernel.name) continue;
        if (const char* reason = why_not(kernel, plan, arithmetic, device)) {
            plan.rejected.emplace_back(kernel.name, reason);
            continue;
        }
        problem.arithmetic = arithmetic;
        problem.tensor_cores = kernel.capability >= 80;
        problem.always_partial = !in_order || !stores(kernel, plan);
        const auto workspace = static_cast<std::int64_t>(workspace_limit());
        const Split split =
            kernel.mapped ? best_clusters(problem, tile_of(kernel), device, workspace)
                          : best_split_in_turn(problem, tile_of(kernel), device, workspace);
        if (plan.row != nullptr && split.cycles >= plan.cycles) continue;
        plan.row = &kernel;
        plan.kernel = kernel.name;
        plan.cycles = split.cycles;
        plan.splits = split.splits;
        plan.per_split = split.per_split;
        plan.cluster = split.cluster;
        plan.stores = split.splits == 1 && !problem.always_partial;
        plan.tiles = split.tiles;
        plan.arithmetic = arithmetic;
    }
}

/// All targets' tables; float32 by one or three tf32 products and exactly in turn where precision
/// allows both.
template <class Table>
void choose_kernel(CudaConvPlan& plan, const Table& simt, std::initializer_list<Table> tensor_cores,
                   MatrixProblem problem, const DeviceInfo& device, const std::string& forced) {
    const DType dtype = plan.problem.dtype;
    for (const Table& table : tensor_cores)
        choose(plan, table, problem, device, arithmetic_of(dtype, plan.precision), forced);
    choose(plan, simt, problem, device, arithmetic_of(dtype, Precision::kHighest), forced);
    if (plan.row != nullptr) return;
    std::string why = "no kernel of that name";
    for (const auto& [name, reason] : plan.rejected)
        if (name == forced || forced.empty()) why = name + ": " + reason;
    throw std::invalid_argument(forced.empty() ? why : "kernel '" + forced + "': " + why);
}

void plan_correlations(CudaConvPlan& plan, const DeviceInfo& device, const std::string& forced) {
    const std::int64_t vec = 16 / plan.problem.element_bytes();
    plan.vector = plan.aligned.read;
    for (const Correlation& phase : plan.phases)
        plan.vector = plan.vector && source_reads_vectors(phase, vec);
    const MatrixProblem problem = correlations_problem(plan);
    choose_kernel(plan, correlation_kernels_simt(),
                  {correlation_kernels_sm90(), correlation_kernels_sm80()}, problem, device, forced);

    const auto& kernel = *static_cast<const CorrelationKernel*>(plan.row);
    for (const Correlation& phase : plan.phases) {
        CudaWeight view = weight_for(plan, phase, kernel.layout, vec);
        if (!view.in_place) {
            view.packed_offset = plan.packed_bytes;
            const std::int64_t bytes =
                phase.groups * view.packed_group_elems * plan.problem.element_bytes();
            plan.packed_bytes +=
                (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
        }
        plan.weights.push_back(view);
    }
    plan.workspace_bytes = plan.packed_bytes;
    if (plan.splits > 1)
        plan.workspace_bytes += plan.splits * problem.groups * problem.m * problem.n * 4;
}

void plan_grad_weight(CudaConvPlan& plan, const DeviceInfo& device, const std::string& forced) {
    const std::int64_t vec = 16 / plan.problem.element_bytes();
    const Correlation& view = plan.phases.front();
    plan.vector =
        plan.aligned.read && source_reads_vectors(view, vec) && out_reads_vectors(view, vec);
    const MatrixProblem problem = grad_weight_problem(plan);
    choose_kernel(plan, grad_weight_kernels_simt(),
                  {grad_weight_kernels_sm90(), grad_weight_kernels_sm80()}, problem, device, forced);
    if (!plan.stores)
        plan.workspace_bytes = plan.splits * problem.groups * problem.m * problem.n * 4;
}

/// Completes the plan with implicit-GEMM kernels, or says why it cannot.
std::string plan_direct(CudaConvPlan& plan, const DeviceInfo& device, const std::string& forced) {
    const bool grad_weight = plan.direction == Direction::kGradWeight;
    // What it would fill has no residual and no ReLU.
    if (plan.direction == Direction::kForward && plan.problem.group_in() == 0)
        return "there are no channels to sum over";
    plan.phases = grad_weight
                      ? std::vector<Correlation>{forward_phase(plan.problem, plan.strides)}
                      : dense_phases(plan.problem, plan.direction, plan.strides);
    // The phases of grad_input differ in size by one row at most; those without taps are filled.
    const auto computed = std::count_if(plan.phases.begin(), plan.phases.end(),
                                        [](const Correlation& p) { return p.taps_h.count > 0; });
    for (Correlation& phase : plan.phases) {
        settle(phase);
        if (const char* reason = too_large(phase)) return reason;
        if (grad_weight && plan.problem.taps() > kMostTaps) return "it has more than 1024 taps";
        if (grad_weight && !lies_in_order(phase, plan.strides.weight) &&
            store_shared_bytes(plan.problem.taps()) >
                static_cast<std::int64_t>(device.shared_bytes))
            return "the sums of its taps, of " + std::to_string(kStoreChannels) +
                   " channels, need more shared memory than a block may have here";
        // Phases of one launch have the same strides.
        const bool pointwise = computed == 1 && phase.taps_h.count == 1 &&
                               phase.taps_w.count == 1 && phase.taps_h.offset == 0 &&
                               phase.taps_w.offset == 0;
        const bool inside =
            pointwise && (phase.out_h - 1) * phase.taps_h.step < phase.source_h &&
            (phase.out_w - 1) * phase.taps_w.step < phase.source_w;
        if (inside && !grad_weight && phase.out_h > 0 && phase.out_w > 0 && phase.batch > 0)
            flatten_pointwise(phase);
    }
    std::stable_sort(plan.phases.begin(), plan.phases.end(),
                     [](const Correlation& a, const Correlation& b) {
                         return a.taps_h.count * a.taps_w.count > b.taps_h.count * b.taps_w.count;
                     });
    if (plan.phases.empty()) return "";
    if (grad_weight) plan_grad_weight(plan, device, forced);
    else plan_correlations(plan, device, forced);
    return "";
}

// ---- algorithms ------------------------------------------------------------------------------------

bool is_pointwise(const Conv& conv) {
    return conv.taps() == 1 && conv.height.pad_lo == 0 && conv.height.pad_hi == 0 &&
           conv.width.pad_lo == 0 && conv.width.pad_hi == 0;
}

/// Completes the plan by one algorithm; a reason where it cannot.
std::string plan_by(CudaConvPlan& plan, Algorithm algorithm, const DeviceInfo& device,
                    const std::string& kernel) {
    plan.algorithm = algorithm;
    switch (algorithm) {
        case Algorithm::kNaive: plan.kernel = "naive"; return "";
        case Algorithm::kDepthwise:
            if (!depthwise_accepts(plan.problem, plan.direction, plan.strides))
                return "it needs groups equal to the channels";
            plan.kernel = "depthwise";
            plan.workspace_bytes =
                depthwise_workspace_bytes(plan.problem, plan.direction, device);
            return "";
        case Algorithm::kPointwise:
            if (!is_pointwise(plan.problem)) return "it needs 1x1 kernels without padding";
            return plan_direct(plan, device, kernel);
        case Algorithm::kDirect: return plan_direct(plan, device, kernel);
        default: return "it has no CUDA kernel";
    }
}

}  // namespace

CudaConvPlan plan_conv2d(const Conv& problem, Direction direction, const ConvStrides& strides,
                         const DeviceInfo& device, Precision precision, Aligned aligned,
                         std::optional<Algorithm> forced, const std::string& kernel) {
    CudaConvPlan fresh;
    fresh.problem = problem;
    fresh.direction = direction;
    fresh.strides = strides;
    fresh.precision = precision;
    fresh.aligned = aligned;
    std::vector<Algorithm> order{Algorithm::kDepthwise, Algorithm::kPointwise, Algorithm::kDirect,
                                 Algorithm::kNaive};
    if (forced) order = {*forced};
    else if (kernel == "naive") order = {Algorithm::kNaive};
    else if (kernel == "depthwise") order = {Algorithm::kDepthwise};
    else if (!kernel.empty()) order = {Algorithm::kPointwise, Algorithm::kDirect};
    std::string reason;
    for (const Algorithm algorithm : order) {
        CudaConvPlan plan = fresh;
        const std::string name = kAlgorithmNames[static_cast<int>(algorithm)];
        reason = plan_by(plan, algorithm, device, kernel);
        if (reason.empty()) return plan;
        fresh.rejected.emplace_back(name, reason);
    }
    throw std::invalid_argument(reason);
}

std::vector<std::string> conv_kernels(Direction direction) {
    std::vector<std::string> names;
    if (direction == Direction::kGradWeight) {
        for (const auto& kernel : grad_weight_kernels_sm90()) names.emplace_back(kernel.name);
        for (const auto& kernel : grad_weight_kernels_sm80()) names.emplace_back(kernel.name);
        for (const auto& kernel : grad_weight_kernels_simt()) names.emplace_back(kernel.name);
    } else {
        for (const auto& kernel : correlation_kernels_sm90()) names.emplace_back(kernel.name);
        for (const auto& kernel : correlation_kernels_sm80()) names.emplace_back(kernel.name);
        for (const auto& kernel : correlation_kernels_simt()) names.emplace_back(kernel.name);
    }
    names.insert(names.end(), {"depthwise", "naive"});
    return names;
}

}  // namespace fastconv::cuda

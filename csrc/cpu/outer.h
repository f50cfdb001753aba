// Sums of outer products: the core under the weight gradients of convolution and linear.
//
//   weight[k, c, a, b] (+)= sum over n, i, j of out[n, i, j, k] * source[n, y(i, a), x(j, b), c]
//
// with the geometry of a Correlation (core/plan.h), of which `source` and `out` are only read here.
#pragma once

#include "core/plan.h"
#include "cpu/kernels.h"

namespace fastconv::cpu {

/// Begins the plan of a convolution's weight gradient: its view, and the weight's strides.
void start_grad_weight(ConvPlan& plan);

/// Decides gather and merge of `view` and cuts the sum; weight strides are already set in `blocking`.
/// Returns false where even one position needs more scratch than a thread may have.
template <class T>
bool block_outer(Correlation& view, OuterBlocking& blocking, const Kernels<T>& kernels, int threads);

/// Bytes of workspace: the totals of all sums, where there are several.
std::size_t outer_workspace_bytes(const Correlation& view, const OuterBlocking& blocking,
                                  std::size_t element_bytes);

/// Where a task's scratch has what, in bytes from its beginning.
struct OuterScratch {
    std::size_t run_counts = 0;  // (segments)
    std::size_t runs = 0;        // (segments, runs_per_segment)
    std::size_t lines = 0;       // (panels of a group, positions, panel width)
    std::size_t strip = 0;       // (images, strip_h, strip_w, channels of the part)
    std::size_t totals = 0;      // where there is one sum only
    std::size_t split_rows = 0, split_raw = 0, split_columns = 0, split_fresh = 0;  // cpu/outer_split.h
    std::size_t split_pointers = 0;
    std::size_t stage = 0;       // a few rows of totals on their way out
    std::int64_t runs_per_segment = 0, strip_h = 0, strip_w = 0;
    std::size_t bytes = 0;
};

constexpr std::int64_t kOuterStageRows = 64;
constexpr std::int64_t kOuterPieceRows = 512;  // without a stage: a transpose's lines are longer

template <class T>
OuterScratch outer_scratch(const Correlation& view, const OuterBlocking& blocking,
                           const Kernels<T>& kernels);

template <class T>
struct OuterOperands {
    const T* source = nullptr;
    const T* out = nullptr;
    T* weight = nullptr;
    T* workspace = nullptr;
    bool accumulate = false;
};

template <class T>
void run_outer(const Correlation& view, const OuterBlocking& blocking, const Kernels<T>& kernels,
               const OuterOperands<T>& operands, int threads);

}  // namespace fastconv::cpu

// What conv2d.cpp calls around the implicit-GEMM kernels (conv2d_join.cu).
#pragma once

#include "cuda/conv_kernels.h"

namespace fastconv::cuda {

inline std::int64_t rows_of(const Correlation& phase) {
    return phase.batch * phase.out_h * phase.out_w;
}
inline std::int64_t depth_of(const Correlation& phase) {
    return phase.taps_h.count * phase.taps_w.count * phase.channels;
}

/// The weights of all phases that are not read in place, as their kernel reads them, zeros up to the
/// pitch.
void pack_correlation_weights(const CudaConvPlan& plan, WeightLayout layout, const void* weight,
                              void* workspace, Stream stream);

/// Each phase's partial to its out, with bias, residual and ReLU.
void join_correlation_splits(const CorrelationLaunch& phases, DType dtype, Stream stream);

/// Whether a weight lies as (groups, cols, depth), the partial sums' order.
inline bool lies_in_order(const Correlation& view, const Strides& weight) {
    const std::int64_t taps_h = view.taps_h.count, taps_w = view.taps_w.count;
    return (view.channels == 1 || weight.channel_elems == 1) &&
           weight.batch_elems == taps_h * taps_w * view.channels &&
           (taps_w == 1 || weight.width_elems == view.channels) &&
           (taps_h == 1 || weight.height_elems == taps_w * view.channels);
}

/// Of a weight that does not lie in order a block stores so many channels, through shared memory where
/// each has its taps' sums beside each other; an odd number apart, for the banks.
constexpr int kStoreChannels = 32;
inline std::int64_t store_shared_bytes(std::int64_t taps) {
    return kStoreChannels * std::int64_t{sizeof(float)} * (taps | 1);
}

/// partial (splits, groups, cols, depth) to the weight of any strides, added to it with `accumulate`;
/// the partial sums are overwritten.
void store_grad_weight_splits(const Correlation& view, const Strides& weight, int splits,
                              float* partial, DType dtype, bool accumulate, void* out,
                              Stream stream);

}  // namespace fastconv::cuda

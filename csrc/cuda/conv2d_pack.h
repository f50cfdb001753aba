// What conv2d.cpp calls around the implicit-GEMM kernels (conv2d_pack.cu, conv2d_join.cu).
#pragma once

#include "cuda/conv_kernels.h"

namespace fastconv::cuda {

/// The weights of one phase as its kernel reads them, zeros up to the pitch.
void pack_correlation_weight(const Correlation& phase, const CudaWeight& view, WeightLayout layout,
                             DType dtype, const void* weight, void* packed, Stream stream);

/// arguments.partial to arguments.out, with bias, residual and ReLU.
void join_correlation_splits(const CorrelationArguments& arguments, DType dtype, Stream stream);

/// Whether a weight lies as (groups, cols, depth), the partial sums' order.
inline bool lies_in_order(const Correlation& view, const Strides& weight) {
    const std::int64_t taps_h = view.taps_h.count, taps_w = view.taps_w.count;
    return (view.channels == 1 || weight.channel_elems == 1) &&
           weight.batch_elems == taps_h * taps_w * view.channels &&
           (taps_w == 1 || weight.width_elems == view.channels) &&
           (taps_h == 1 || weight.height_elems == taps_w * view.channels);
}

/// partial (splits, groups, cols, depth) to the weight of any strides, added to it with `accumulate`;
/// the partial sums are overwritten.
void store_grad_weight_splits(const Correlation& view, const Strides& weight, int splits,
                              float* partial, DType dtype, bool accumulate, void* out,
                              Stream stream);

}  // namespace fastconv::cuda

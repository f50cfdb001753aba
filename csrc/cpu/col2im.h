// grad_input as a product and col2im, fused: what `im2col` does, and `direct` leaves to it, where the
// phases would mostly multiply padding, be it lanes without a column or zeros around grad_output.
//
//   terms[p, q][r, s, c]                          = sum over k of dy[p, q, k] * w[k, r, s, c]
//   dx[p * stride + r * dilation - pad, q..., c] += terms[p, q][r, s, c]
//
// With 3 channels a phase fills 3 of 16 lanes, and the product has R S C = 27, 147, 363 columns; and a
// 7x7 kernel over 10x10 positions has 100 rows here where the 16 x 16 positions of dx are 256 there.
// Term: K. Chellapilla, S. Puri, P. Simard (2006); of the buffer of terms there are never more than 32 KB.
#pragma once

#include "ops.h"

namespace fastconv::cpu {

/// What it costs for one image, in multiply-adds of the register tile, and what the phases cost.
struct Col2imCost {
    double col2im, phases;
};
Col2imCost col2im_cost(const Conv& conv, const Isa& isa);

/// Plans grad_input so where it pays and a task's part of dx fits into a thread's scratch; else returns
/// false. Shapes of one image decide: the batch and the threads change no bits.
bool plan_col2im(ConvPlan& plan);

void run_col2im(const ConvPlan& plan, const ConvPointers& pointers, void* workspace);

/// Where a task's scratch has what, in bytes from its beginning.
struct Col2imScratch {
    std::size_t pointers = 0;  // (block_h, Q) to the positions' channels
    std::size_t terms = 0;     // (positions of a chunk, panel width)
    std::size_t gathered = 0;  // (block_h, Q, K), where grad_output's channels are strided
    std::size_t strip = 0;     // (rows of a band, strip_w, C)
    std::size_t bytes = 0;
};

template <class T>
Col2imScratch col2im_scratch(const ConvPlan& plan);

/// One task: a band of dx's rows of one image and group. `packed` is (groups, panels, K, width).
template <class T>
void run_col2im_band(const ConvPlan& plan, const ConvPointers& pointers, const T* packed,
                     std::int64_t task);

}  // namespace fastconv::cpu

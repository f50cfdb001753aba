// The C++ API: plan and run of every operation. Plans are pure functions of shapes, strides, ISA and
// threads; run() gets results and workspace from outside and allocates none.
#pragma once

#include <optional>
#include <string>

#include "core/plan.h"
#include "core/pool_plan.h"
#include "core/problem.h"
#include "core/tensor.h"
#include "cpu/isa.h"
#include "cpu/kernels_elementwise.h"
#include "cpu/kernels_softmax.h"

namespace fastconv::cpu {

// ---- convolution ---------------------------------------------------------------------------------

/// How one direction of a convolution is computed. `forced` is the user's choice of algorithm; an
/// algorithm that cannot do the problem is a std::invalid_argument with the reason.
ConvPlan plan_conv2d(const Conv& problem, Direction direction, const ConvStrides& strides,
                     const Isa& isa, int threads, std::optional<Algorithm> forced);

/// Operands of any direction; the element type is the plan's dtype. What a direction does not read
/// or write stays null: forward reads input and weight (or packed) and writes output; grad_input
/// reads output (that is grad_output) and weight and writes input; grad_weight reads both and writes
/// weight.
struct ConvPointers {
    void* input = nullptr;
    void* weight = nullptr;
    void* output = nullptr;
    const void* packed = nullptr;    // instead of packing `weight`; from pack_conv2d with this plan
    const void* bias = nullptr;      // unit stride; added to what forward or grad_input writes
    const void* residual = nullptr;  // of the output's shape; forward only
    bool relu = false;               // forward only
    bool accumulate = false;         // grad_weight only: add to what is there
};

/// `workspace` has plan.workspace_bytes, 64-byte aligned.
void run_conv2d(const ConvPlan& plan, const ConvPointers& pointers, void* workspace);

/// Packs `weight` as the plan's algorithm wants it: plan.packed_elems elements.
void pack_conv2d(const ConvPlan& plan, const void* weight, void* packed);

/// grad_bias[k] = sum over n, p, q of grad_output[n, k, p, q]: any strides, at the memory's speed.
/// `conv` needs batch, out_channels, both axes' `out` and the dtype. `workspace` as its own function
/// says, 64-byte aligned; `out` has out_elems between its elements.
std::size_t grad_bias_workspace_bytes(const Conv& conv);
void run_grad_bias(const Conv& conv, const Strides& grad_output, const Isa& isa, int threads,
                   const void* grad, void* out, std::int64_t out_elems, bool accumulate,
                   void* workspace);
// ---- element-wise --------------------------------------------------------------------------------
// Arrays of one shape and dtype, any strides; the plan is the grid of cpu/grid.h.

/// y = op(a, b); b is null for an operation of one operand. y may be a or b itself.
void run_elementwise(ElementwiseOp op, const Tensor& a, const Tensor* b, const Tensor& y,
                     double parameter, const Isa& isa, int threads);

/// y = x * scale where element i (in C order of the shape) is kept, else 0: kept if the i-th word of
/// Philox4x32-10 keyed by seed is at least threshold, 0 .. 2^32.
void run_dropout(const Tensor& x, const Tensor& y, std::uint64_t seed, std::uint64_t threshold,
                 double scale, const Isa& isa, int threads);

struct SgdStep {
    double rate = 0, momentum = 0, weight_decay = 0;
    bool nesterov = false;
};
/// One step of gradient descent in place; velocity may be null where momentum is 0.
void run_sgd(const Tensor& parameter, const Tensor& grad, const Tensor* velocity,
             const SgdStep& step, const Isa& isa, int threads);

// ---- linear ----------------------------------------------------------------------------------------

/// How one direction of y = relu?(x W^T + bias) is computed: grad_input = y W, grad_weight = y^T x
/// with y = grad_output. grad_bias is run_grad_bias of (batch 1, K, P = rows, Q = 1).
LinearPlan plan_linear(const Linear& problem, Direction direction, const LinearStrides& strides,
                       const Isa& isa, int threads);

struct LinearPointers {
    void* x = nullptr;
    void* weight = nullptr;
    void* y = nullptr;
    const void* bias = nullptr;  // unit stride; forward only
    bool relu = false;           // forward only
    bool accumulate = false;     // grad_weight only
};

void run_linear(const LinearPlan& plan, const LinearPointers& pointers, void* workspace);

// ---- batch normalization -------------------------------------------------------------------------

/// Channels lie along `axis` of x and y; every other array is (C). mean and rstd are written, with
/// unit stride; running_* are read in evaluation and, where given, updated in training.
struct BatchNorm {
    Tensor x, y, mean, rstd;
    const Tensor *weight = nullptr, *bias = nullptr;
    const Tensor *running_mean = nullptr, *running_var = nullptr;
    int axis = 1;
    bool training = true;
    double momentum = 0.1, eps = 1e-5;
};
struct BatchNormBackward {
    Tensor grad_output, x, mean, rstd, grad_input, grad_weight, grad_bias;  // the last three written
    const Tensor* weight = nullptr;
    int axis = 1;
    bool training = true;
};
std::size_t batch_norm_workspace_bytes(const BatchNorm& call);
std::size_t batch_norm_workspace_bytes(const BatchNormBackward& call);
void run_batch_norm(const BatchNorm& call, void* workspace, const Isa& isa, int threads);
void run_batch_norm_backward(const BatchNormBackward& call, void* workspace, const Isa& isa,
                             int threads);

// ---- local response normalization ----------------------------------------------------------------

struct ResponseNorm {
    Tensor x;
    int axis = 1;
    std::int64_t size = 5;
    double alpha = 1e-4, beta = 0.75, k = 1;
};
void run_response_norm(const ResponseNorm& call, const Tensor& y, const Isa& isa, int threads);
void run_response_norm_backward(const ResponseNorm& call, const Tensor& grad_output,
                                const Tensor& grad_input, const Isa& isa, int threads);

// ---- softmax and cross-entropy -------------------------------------------------------------------

/// Forward: result = kind(a) along `axis`, b null. Backward: a = grad_output, b = output.
void run_softmax(SoftmaxKind kind, const Tensor& result, const Tensor& a, const Tensor* b, int axis,
                 const Isa& isa, int threads);

/// Logits (N, C) against class numbers, all within 0 .. C - 1.
struct CrossEntropy {
    Tensor logits;
    const std::int64_t* target = nullptr;
    std::int64_t target_elems = 1;
    double label_smoothing = 0;
};
/// losses[n], one a row.
void run_cross_entropy(const CrossEntropy& problem, double* losses, const Isa& isa, int threads);
/// grad[n] = dloss[n]/dlogits[n] * scales[n * scale_elems].
void run_cross_entropy_backward(const CrossEntropy& problem, const Tensor& grad,
                                const double* scales, std::int64_t scale_elems, const Isa& isa,
                                int threads);

// ---- pooling -------------------------------------------------------------------------------------

/// How a pooling problem or its gradient is computed. Throws std::invalid_argument where indices are
/// asked of float32 windows that span 2^31 elements.
PoolPlan plan_pool2d(const PoolProblem& problem, const PoolStrides& strides, const Isa& isa,
                     int threads);

/// Forward reads input and writes output (and indices); a gradient reads output, that is
/// grad_output, and indices where it is the maximum's, and writes input, that is grad_input.
struct PoolPointers {
    void* input = nullptr;
    void* output = nullptr;
    std::int64_t* indices = nullptr;
};

void run_pool2d(const PoolPlan& plan, const PoolPointers& pointers);

/// Max unpooling: output(n, c, indices) = input, 0 elsewhere, the last of equal indices in row-major
/// order stays; backward reads output and writes input. Index -1 is skipped. Returns the first index
/// found outside [-1, out_h * out_w), with the result unfinished, or -1.
struct UnpoolProblem {
    DType dtype = DType::kFloat32;
    std::int64_t batch = 0, channels = 0;
    std::int64_t in_h = 0, in_w = 0;
    std::int64_t out_h = 0, out_w = 0;
    Strides input, output, indices;
    bool backward = false;
};

std::int64_t run_unpool2d(const UnpoolProblem& problem, const PoolPointers& pointers, int threads);

}  // namespace fastconv::cpu

namespace fastconv::cuda {

bool built();                 // are CUDA kernels part of this build?
const char* why_not_built();  // one sentence for error messages; empty if they are

}  // namespace fastconv::cuda

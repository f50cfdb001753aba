// The C++ API: plan and run of every operation. Plans are pure functions of shapes, strides and the
// target (ISA and threads, or a CUDA device); run() gets results and workspace from outside and
// allocates none.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/cuda_plan.h"
#include "core/operation.h"
#include "core/plan.h"
#include "core/pool_plan.h"
#include "core/problem.h"
#include "core/tensor.h"
#include "cpu/isa.h"

namespace fastconv {

// ---- operands, the same on every device ----------------------------------------------------------

/// Operands of any direction; the element type is the plan's dtype. What a direction does not read
/// or write stays null: forward reads input and weight (or packed) and writes output; grad_input
/// reads output (that is grad_output) and weight and writes input; grad_weight reads both and writes
/// weight.
struct ConvPointers {
    void* input = nullptr;
    void* weight = nullptr;
    void* output = nullptr;
    const void* packed = nullptr;    // instead of packing `weight`: of the plan's packed_format
    const void* bias = nullptr;      // unit stride; added to what forward or grad_input writes
    const void* residual = nullptr;  // forward: of the shape before pooling; grad_input: laid out as input
    bool relu = false;               // forward only
    bool accumulate = false;         // grad_weight only: add to what is there
};

struct LinearPointers {
    void* x = nullptr;
    void* weight = nullptr;
    void* y = nullptr;
    const void* bias = nullptr;  // unit stride; forward only
    bool relu = false;           // forward only
    bool accumulate = false;     // grad_weight only
};

struct SgdStep {
    double rate = 0, momentum = 0, weight_decay = 0;
    bool nesterov = false;
};

/// One parameter of a step, three arrays of one shape and dtype; parameter and velocity are written.
struct SgdOperands {
    Tensor parameter, grad, velocity;
    bool has_velocity = false;
};

/// Channels lie along `axis` of x and y; every other array is (C). mean and rstd are written, with
/// unit stride; running_* are read in evaluation and, where given, updated in training.
struct BatchNorm {
    Tensor x, y, mean, rstd;
    const Tensor *weight = nullptr, *bias = nullptr;
    const Tensor *running_mean = nullptr, *running_var = nullptr;
    int axis = 1;
    bool training = true;
    double momentum = 0.1, eps = 1e-5;
    bool relu = false;  // y = max(normalized x, 0)
    const Tensor* residual = nullptr;  // y = max(normalized x + residual, 0), where relu is set; on the CPU
};
struct BatchNormBackward {
    Tensor grad_output, x, mean, rstd, grad_input, grad_weight, grad_bias;  // the last three written
    const Tensor* weight = nullptr;
    int axis = 1;
    bool training = true;
    /// grad_output is that of a ReLU after it; in training on the CPU. `bias` is the forward call's.
    bool relu = false;
    const Tensor* bias = nullptr;
    /// The ReLU's output y, where a residual was added before it, and what is written of its gradient:
    /// grad_output where y > 0. Both or none.
    const Tensor *output = nullptr, *grad_residual = nullptr;
};

struct ResponseNorm {
    Tensor x;
    int axis = 1;
    std::int64_t size = 5;
    double alpha = 1e-4, beta = 0.75, k = 1;
};

/// Logits (N, C) against class numbers, all within 0 .. C - 1.
struct CrossEntropy {
    Tensor logits;
    const std::int64_t* target = nullptr;
    std::int64_t target_elems = 1;
    double label_smoothing = 0;
};

/// Forward reads input and writes output (and indices); a gradient reads output, that is
/// grad_output, and indices where it is the maximum's, and writes input, that is grad_input.
struct PoolPointers {
    void* input = nullptr;
    void* output = nullptr;
    std::int64_t* indices = nullptr;
};

/// Max unpooling: output(n, c, indices) = input, 0 elsewhere, the last of equal indices in row-major
/// order stays; backward reads output and writes input. Index -1 is skipped.
struct UnpoolProblem {
    DType dtype = DType::kFloat32;
    std::int64_t batch = 0, channels = 0;
    std::int64_t in_h = 0, in_w = 0;
    std::int64_t out_h = 0, out_w = 0;
    Strides input, output, indices;
    bool backward = false;
};

}  // namespace fastconv

namespace fastconv::cpu {

// ---- convolution ---------------------------------------------------------------------------------

/// How one direction of a convolution is computed. `forced` is the user's choice of algorithm; an
/// algorithm that cannot do the problem is a std::invalid_argument with the reason. With `packed` the
/// weights come as pack_conv2d leaves them, transformed where the algorithm transforms them; that
/// changes no bits and not the algorithm. With `wide_tiles` the float32 precision is "high". The choice
/// looks at one image, so that a batch gives the bits of its images. With `strides.pooled` only Winograd's algorithms are candidates, and the result has the bits of run_pool2d
/// after the convolution.
ConvPlan plan_conv2d(const Conv& problem, Direction direction, const ConvStrides& strides,
                     const Isa& isa, int threads, std::optional<Algorithm> forced,
                     bool packed = false, bool wide_tiles = false);

/// Whether run_conv2d adds ConvPointers::residual to this plan's result in passing: all do forward.
bool adds_residual(const ConvPlan& plan);

/// `workspace` has plan.workspace_bytes, 64-byte aligned.
void run_conv2d(const ConvPlan& plan, const ConvPointers& pointers, void* workspace);

/// Packs `weight` in the plan's packed_format: plan.packed_elems elements. A format depends on the
/// weight, the groups and the ISA alone.
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

/// to = from.
void run_copy(const Tensor& from, const Tensor& to, const Isa& isa, int threads);

/// y = x * scale where element i (in C order of the shape) is kept, else 0: kept if the i-th word of
/// Philox4x32-10 keyed by seed is at least threshold, 0 .. 2^32.
/// 1 / (1 - p), what is kept is multiplied by; 0 where nothing is.
double dropout_scale(double p);
void run_dropout(const Tensor& x, const Tensor& y, std::uint64_t seed, std::uint64_t threshold,
                 double scale, const Isa& isa, int threads);

/// One step of gradient descent in place, of parameters of one dtype; without momentum they need no
/// velocity.
void run_sgd(const std::vector<SgdOperands>& all, const SgdStep& step, const Isa& isa, int threads);

// ---- linear ----------------------------------------------------------------------------------------

/// How one direction of y = relu?(x W^T + bias) is computed: grad_input = y W, grad_weight = y^T x
/// with y = grad_output. grad_bias is run_grad_bias of (batch 1, K, P = rows, Q = 1).
LinearPlan plan_linear(const Linear& problem, Direction direction, const LinearStrides& strides,
                       const Isa& isa, int threads);

void run_linear(const LinearPlan& plan, const LinearPointers& pointers, void* workspace);

// ---- batch and local response normalization ------------------------------------------------------

std::size_t batch_norm_workspace_bytes(const BatchNorm& call);
std::size_t batch_norm_workspace_bytes(const BatchNormBackward& call);
void run_batch_norm(const BatchNorm& call, void* workspace, const Isa& isa, int threads);
void run_batch_norm_backward(const BatchNormBackward& call, void* workspace, const Isa& isa,
                             int threads);

void run_response_norm(const ResponseNorm& call, const Tensor& y, const Isa& isa, int threads);
void run_response_norm_backward(const ResponseNorm& call, const Tensor& grad_output,
                                const Tensor& grad_input, const Isa& isa, int threads);

// ---- softmax and cross-entropy -------------------------------------------------------------------

/// Forward: result = kind(a) along `axis`, b null. Backward: a = grad_output, b = output.
void run_softmax(SoftmaxKind kind, const Tensor& result, const Tensor& a, const Tensor* b, int axis,
                 const Isa& isa, int threads);

/// losses[n], one a row; returns their sum or mean, rounded to the logits' dtype. `each`, if there,
/// (N,) of that dtype, takes the losses.
double run_cross_entropy(const CrossEntropy& problem, double* losses, bool mean, const Tensor* each,
                         const Isa& isa, int threads);
/// grad[n] = dloss[n]/dlogits[n] * scales[n * scale_elems] / divisor.
void run_cross_entropy_backward(const CrossEntropy& problem, const Tensor& grad,
                                const double* scales, std::int64_t scale_elems, double divisor,
                                const Isa& isa, int threads);

// ---- pooling -------------------------------------------------------------------------------------

/// How a pooling problem or its gradient is computed. Throws std::invalid_argument where indices are
/// asked of float32 windows that span 2^31 elements.
PoolPlan plan_pool2d(const PoolProblem& problem, const PoolStrides& strides, const Isa& isa,
                     int threads);

void run_pool2d(const PoolPlan& plan, const PoolPointers& pointers);

/// Returns the first index found outside [-1, out_h * out_w), with the result unfinished, or -1.
std::int64_t run_unpool2d(const UnpoolProblem& problem, const PoolPointers& pointers, int threads);

}  // namespace fastconv::cpu

// Every function of this half but built() and why_not_built() throws std::runtime_error in a build
// without CUDA. Pointers are to device memory; work is enqueued on `stream` of the current device and
// nothing waits for it, so that every run_* may be captured into a CUDA graph. Workspace comes from
// cuda::allocate on the same stream, inside the functions that take none.
namespace fastconv::cuda {

bool built();                 // are CUDA kernels part of this build?
const char* why_not_built();  // one sentence for error messages; empty if they are
const char* architectures();  // what machine code and PTX this build holds, e.g. "75 80 90a 90-virtual"

// ---- devices, memory, streams, graphs (cuda/runtime.cpp, cuda/streams.cpp) -----------------------

/// A cudaStream_t as DLPack and __cuda_array_interface__ pass it: 0 or 1 is the legacy default
/// stream, 2 the thread's.
using Stream = std::uintptr_t;

int device_count();                 // 0 without a driver or GPU
std::string why_no_device();        // one sentence; empty if there is one that this build fits
const DeviceInfo& device(int index);  // cached; throws where there is no such device
int current_device();
void set_device(int index);
bool is_pinned(const void* pointer);  // whether it is page-locked memory of the host's
int device_of(const void* pointer);  // throws std::invalid_argument where it is not a GPU's memory

/// Stream-ordered memory of the current device from a pool that keeps what was freed; 256-byte aligned.
void* allocate(std::size_t bytes, Stream stream);
void release(void* data, int device, Stream stream) noexcept;
void* allocate_pinned(std::size_t bytes);
void release_pinned(void* data) noexcept;
MemoryStats memory_stats(int device);
void trim_memory(int device);  // gives back to the system what the pool holds unused

/// One contiguous block between host and device or device and device. To or from pageable host memory
/// it waits; with pinned memory it is asynchronous.
enum class CopyKind : std::uint8_t { kHostToDevice, kDeviceToHost, kDeviceToDevice };
void copy_bytes(void* to, const void* from, std::size_t bytes, CopyKind kind, Stream stream);

Stream create_stream(int device);
void destroy_stream(Stream stream) noexcept;
void synchronize(Stream stream);
void synchronize_device(int device);
void wait_for(Stream waiting, Stream other);  // what is enqueued on `waiting` later runs after `other`

bool is_capturing(Stream stream);

using Graph = std::uintptr_t;  // a cudaGraphExec_t
void begin_capture(Stream stream);
Graph end_capture(Stream stream);
void launch_graph(Graph graph, Stream stream);
void destroy_graph(Graph graph) noexcept;

using Event = std::uintptr_t;  // a cudaEvent_t, with timing
Event create_event();
void record_event(Event event, Stream stream);
float elapsed_milliseconds(Event begin, Event end);  // waits for `end`
void destroy_event(Event event) noexcept;

// ---- copies of any strides and dtypes (cuda/copy.cu) ----------------------------------------------

/// to[i] = from[i], converted to the nearest of to's dtype; one shape, any strides.
void run_copy(const Tensor& from, const Tensor& to, Stream stream);
void run_fill(const Tensor& to, double value, Stream stream);

// ---- convolution and linear (cuda/conv2d*.cu) ----------------------------------------------------

/// Pure host code: how a direction is computed on `device`. `forced` as on the CPU; `kernel` forces a
/// row of conv_kernels() by name (empty: the cost model's choice). Throws std::invalid_argument with
/// the reason.
CudaConvPlan plan_conv2d(const Conv& problem, Direction direction, const ConvStrides& strides,
                         const DeviceInfo& device, Precision precision, Aligned aligned,
                         std::optional<Algorithm> forced, const std::string& kernel);
void run_conv2d(const CudaConvPlan& plan, const ConvPointers& pointers, Stream stream);
/// Names of kernels that a direction may take, best first.
std::vector<std::string> conv_kernels(Direction direction);

/// As cpu::run_grad_bias; `out` has the dtype `out_dtype`.
void run_grad_bias(const Conv& conv, const Strides& grad_output, const void* grad, void* out,
                   DType out_dtype, std::int64_t out_elems, bool accumulate, Stream stream);

// ---- the rest: contracts as in namespace cpu, with float32, float16 and bfloat16 -------------------
// What is (C) in batch norm (weight, bias, mean, rstd, running_*) is float32 whatever x is.

void run_elementwise(ElementwiseOp op, const Tensor& a, const Tensor* b, const Tensor& y,
                     double parameter, Stream stream);
void run_dropout(const Tensor& x, const Tensor& y, std::uint64_t seed, std::uint64_t threshold,
                 double scale, Stream stream);
/// `parameter` and `velocity` are float32, `grad` of any dtype; `copy`, where given, gets the new
/// parameter in its own dtype (what the kernels read, while `parameter` is the master).
void run_sgd(const Tensor& parameter, const Tensor& grad, const Tensor* velocity,
             const Tensor* copy, const SgdStep& step, Stream stream);
void run_batch_norm(const BatchNorm& call, Stream stream);
void run_batch_norm_backward(const BatchNormBackward& call, Stream stream);
void run_response_norm(const ResponseNorm& call, const Tensor& y, Stream stream);
void run_response_norm_backward(const ResponseNorm& call, const Tensor& grad_output,
                                const Tensor& grad_input, Stream stream);
void run_softmax(SoftmaxKind kind, const Tensor& result, const Tensor& a, const Tensor* b, int axis,
                 Stream stream);
/// losses (N,) float32 and total () float32 on the device, each may be null; total = the sum of the
/// losses in a fixed order times total_scale. A target outside 0 .. C - 1 makes its loss NaN.
void run_cross_entropy(const CrossEntropy& problem, float* losses, float* total, float total_scale,
                       Stream stream);
/// grad[n] = dloss[n]/dlogits[n] * scale * (scales ? scales[n] : 1), scales (N,) float32 on the device.
void run_cross_entropy_backward(const CrossEntropy& problem, const Tensor& grad, double scale,
                                const float* scales, Stream stream);
void run_pool2d(const PoolProblem& problem, const PoolStrides& strides, const PoolPointers& pointers,
                Stream stream);
/// Indices outside the image are skipped.
void run_unpool2d(const UnpoolProblem& problem, const PoolPointers& pointers, Stream stream);

}  // namespace fastconv::cuda

// The CUDA half of a build without CUDA kernels: the same symbols, each saying so.
#include <stdexcept>

#include "ops.h"

namespace fastconv::cuda {

#define FC_WHY "fastconv was built without CUDA kernels: " FASTCONV_WHY_NOT_CUDA

bool built() { return false; }
const char* why_not_built() { return FC_WHY; }
const char* architectures() { return ""; }

int device_count() { return 0; }
std::string why_no_device() { return FC_WHY; }

namespace {
[[noreturn]] void refuse() { throw std::runtime_error(FC_WHY); }
}  // namespace

// clang-format off
const DeviceInfo& device(int) { refuse(); }
int current_device() { refuse(); }
void set_device(int) { refuse(); }
bool is_pinned(const void*) { refuse(); }
int device_of(const void*) { refuse(); }
void* allocate(std::size_t, Stream) { refuse(); }
void release(void*, int, Stream) noexcept {}
void* allocate_pinned(std::size_t) { refuse(); }
void release_pinned(void*) noexcept {}
MemoryStats memory_stats(int) { refuse(); }
void trim_memory(int) { refuse(); }
void copy_bytes(void*, const void*, std::size_t, CopyKind, Stream) { refuse(); }

Stream create_stream(int) { refuse(); }
void destroy_stream(Stream) noexcept {}
void synchronize(Stream) { refuse(); }
void synchronize_device(int) { refuse(); }
void wait_for(Stream, Stream) { refuse(); }
bool is_capturing(Stream) { refuse(); }
void begin_capture(Stream) { refuse(); }
Graph end_capture(Stream) { refuse(); }
void launch_graph(Graph, Stream) { refuse(); }
void destroy_graph(Graph) noexcept {}
Event create_event() { refuse(); }
void record_event(Event, Stream) { refuse(); }
float elapsed_milliseconds(Event, Event) { refuse(); }
void destroy_event(Event) noexcept {}

void run_copy(const Tensor&, const Tensor&, Stream) { refuse(); }
void run_fill(const Tensor&, double, Stream) { refuse(); }

CudaConvPlan plan_conv2d(const Conv&, Direction, const ConvStrides&, const DeviceInfo&, Precision,
                         Aligned, std::optional<Algorithm>, const std::string&) { refuse(); }
void run_conv2d(const CudaConvPlan&, const ConvPointers&, Stream) { refuse(); }
std::vector<std::string> conv_kernels(Direction) { refuse(); }
void run_grad_bias(const Conv&, const Strides&, const void*, void*, DType, std::int64_t, bool,
                   Stream) { refuse(); }

void run_elementwise(ElementwiseOp, const Tensor&, const Tensor*, const Tensor&, double, Stream) {
    refuse();
}
void run_dropout(const Tensor&, const Tensor&, std::uint64_t, std::uint64_t, double, Stream) {
    refuse();
}
void run_sgd(const Tensor&, const Tensor&, const Tensor*, const Tensor*, const SgdStep&, Stream) {
    refuse();
}
void run_batch_norm(const BatchNorm&, Stream) { refuse(); }
void run_batch_norm_backward(const BatchNormBackward&, Stream) { refuse(); }
void run_response_norm(const ResponseNorm&, const Tensor&, Stream) { refuse(); }
void run_response_norm_backward(const ResponseNorm&, const Tensor&, const Tensor&, Stream) {
    refuse();
}
void run_softmax(SoftmaxKind, const Tensor&, const Tensor&, const Tensor*, int, Stream) { refuse(); }
void run_cross_entropy(const CrossEntropy&, float*, float*, float, Stream) { refuse(); }
void run_cross_entropy_backward(const CrossEntropy&, const Tensor&, double, const float*, Stream) {
    refuse();
}
void run_pool2d(const PoolProblem&, const PoolStrides&, const PoolPointers&, Stream) { refuse(); }
void run_unpool2d(const UnpoolProblem&, const PoolPointers&, Stream) { refuse(); }
// clang-format on

}  // namespace fastconv::cuda

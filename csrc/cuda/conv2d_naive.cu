// Convolution by its definition, one thread a result: the kernel to check others by, and the one
// that does what no other accepts. Any strides, groups and dtype; float32 sums in a fixed order.
//
//   forward      y[n,k,p,q]  = sum over c, r, s of x[n,c,h(p,r),w(q,s)] w[k,c,r,s], + bias, residual, ReLU
//   grad_input   dx[n,c,h,w] = sum over k and those r, s, p, q with h(p,r) = h, w(q,s) = w
//                              of dy[n,k,p,q] w[k,c,r,s], + bias (transposed convolution)
//   grad_weight  dw[k,c,r,s] = sum over n, p, q of dy[n,k,p,q] x[n,c,h(p,r),w(q,s)]
//   h(p, r) = p * stride_h + r * dilation_h - top, w(q, s) likewise
//
// Outside of the image x is a zero that takes part in the product (0 * inf is NaN), as in
// fastconv.reference; grad_input has the products that exist, no others.
#include <cstdlib>

#include "cuda/conv_kernels.h"
#include "cuda/launch.h"
#include "cuda/scalar.cuh"
#include "cuda/walk.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kThreads = 256;

struct NaiveArguments {
    Conv conv;
    std::int64_t group_in = 0, group_out = 0;
    Strides input, weight, output, residual;
    void *x = nullptr, *w = nullptr, *y = nullptr;
    const void *bias = nullptr, *residual_data = nullptr;
    bool relu = false, accumulate = false;
    Walk walk;                         // over a part of the results
    std::int64_t first_n = 0, first_c = 0;  // where the part begins
};

/// A sum of products in blocks, so that no accumulator takes more than kBlock terms.
class BlockedSum {
public:
    __device__ void add(float a, float b) {
        block_ = fmaf(a, b, block_);
        if (++terms_ == kBlock) {
            total_ += block_;
            block_ = 0;
            terms_ = 0;
        }
    }
    __device__ float value() const { return total_ + block_; }

private:
    static constexpr int kBlock = 512;
    float total_ = 0, block_ = 0;
    int terms_ = 0;
};

template <class T>
__device__ T& at(const void* data, const Strides& strides, std::int64_t n, std::int64_t c,
                 std::int64_t h, std::int64_t w) {
    return static_cast<T*>(const_cast<void*>(data))[n * strides.batch_elems +
                                                    c * strides.channel_elems +
                                                    h * strides.height_elems +
                                                    w * strides.width_elems];
}

__device__ std::int64_t source(const Axis& axis, std::int64_t out, std::int64_t tap) {
    return out * axis.stride + tap * axis.dilation - axis.pad_lo;
}

/// The output position at which `tap` meets input element `in`, or -1.
__device__ std::int64_t meeting(const Axis& axis, std::int64_t in, std::int64_t tap) {
    const std::int64_t distance = in + axis.pad_lo - tap * axis.dilation;
    if (distance < 0 || distance % axis.stride != 0) return -1;
    const std::int64_t out = distance / axis.stride;
    return out < axis.out ? out : -1;
}

template <class T>
__device__ float padded(const NaiveArguments& a, std::int64_t n, std::int64_t c, std::int64_t h,
                        std::int64_t w) {
    const bool inside = h >= 0 && h < a.conv.height.in && w >= 0 && w < a.conv.width.in;
    return inside ? to_float(at<T>(a.x, a.input, n, c, h, w)) : 0.0f;
}

/// This thread's result, by its four indices.
__device__ bool find(const NaiveArguments& a, std::int64_t& n, std::int64_t& c, int& h, int& w) {
    Place place;
    if (!a.walk.find(blockIdx.x * kThreads + threadIdx.x, place)) return false;
    n = a.first_n + place.n;
    c = a.first_c + place.c;
    h = place.h;
    w = place.w;
    return true;
}

template <class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(const NaiveArguments a) {
    std::int64_t n, k;
    int p, q;
    if (!find(a, n, k, p, q)) return;
    const Conv& conv = a.conv;
    const std::int64_t first = k / a.group_out * a.group_in;
    BlockedSum sum;
    for (std::int64_t c = 0; c < a.group_in; ++c)
        for (std::int64_t r = 0; r < conv.height.kernel; ++r)
            for (std::int64_t s = 0; s < conv.width.kernel; ++s)
                sum.add(padded<T>(a, n, first + c, source(conv.height, p, r),
                                  source(conv.width, q, s)),
                        to_float(at<T>(a.w, a.weight, k, c, r, s)));
    float y = sum.value();
    if (a.bias) y += to_float(static_cast<const T*>(a.bias)[k]);
    if (a.residual_data) y += to_float(at<T>(a.residual_data, a.residual, n, k, p, q));
    at<T>(a.y, a.output, n, k, p, q) = from_float<T>(a.relu && y < 0 ? 0.0f : y);
}

template <class T>
__global__ void __launch_bounds__(kThreads) grad_input_kernel(const NaiveArguments a) {
    std::int64_t n, c;
    int h, w;
    if (!find(a, n, c, h, w)) return;
    const Conv& conv = a.conv;
    const std::int64_t first = c / a.group_in * a.group_out;
    BlockedSum sum;
    for (std::int64_t k = first; k < first + a.group_out; ++k)
        for (std::int64_t r = 0; r < conv.height.kernel; ++r) {
            const std::int64_t p = meeting(conv.height, h, r);
            if (p < 0) continue;
            for (std::int64_t s = 0; s < conv.width.kernel; ++s) {
                const std::int64_t q = meeting(conv.width, w, s);
                if (q < 0) continue;
                sum.add(to_float(at<T>(a.y, a.output, n, k, p, q)),
                        to_float(at<T>(a.w, a.weight, k, c % a.group_in, r, s)));
            }
        }
    float x = sum.value();
    if (a.bias) x += to_float(static_cast<const T*>(a.bias)[c]);
    at<T>(a.x, a.input, n, c, h, w) = from_float<T>(x);
}

template <class T>
__global__ void __launch_bounds__(kThreads) grad_weight_kernel(const NaiveArguments a) {
    std::int64_t k, c;
    int r, s;
    if (!find(a, k, c, r, s)) return;
    const Conv& conv = a.conv;
    const std::int64_t channel = k / a.group_out * a.group_in + c;
    BlockedSum sum;
    for (std::int64_t n = 0; n < conv.batch; ++n)
        for (std::int64_t p = 0; p < conv.height.out; ++p)
            for (std::int64_t q = 0; q < conv.width.out; ++q)
                sum.add(to_float(at<T>(a.y, a.output, n, k, p, q)),
                        padded<T>(a, n, channel, source(conv.height, p, r),
                                  source(conv.width, q, s)));
    T& w = at<T>(a.w, a.weight, k, c, r, s);
    w = from_float<T>(a.accumulate ? to_float(w) + sum.value() : sum.value());
}

/// The results' shape, as batch, channels, height, width, and whether channels lie closest.
struct Results {
    std::int64_t batch, channels, height, width;
    Strides strides;
};

Results results_of(const CudaConvPlan& plan) {
    const Conv& conv = plan.problem;
    switch (plan.direction) {
        case Direction::kForward:
            return {conv.batch, conv.out_channels, conv.height.out, conv.width.out,
                    plan.strides.output};
        case Direction::kGradInput:
            return {conv.batch, conv.in_channels, conv.height.in, conv.width.in,
                    plan.strides.input};
        default:
            return {conv.out_channels, conv.group_in(), conv.height.kernel, conv.width.kernel,
                    plan.strides.weight};
    }
}

}  // namespace

void run_naive(const CudaConvPlan& plan, const ConvPointers& pointers, Stream stream) {
    const Results results = results_of(plan);
    const Strides& written = results.strides;
    const bool inside = std::abs(written.channel_elems) < std::abs(written.width_elems);
    NaiveArguments a;
    a.conv = plan.problem;
    a.group_in = plan.problem.group_in();
    a.group_out = plan.problem.group_out();
    a.input = plan.strides.input;
    a.weight = plan.strides.weight;
    a.output = plan.strides.output;
    a.residual = plan.strides.residual;
    a.x = pointers.input;
    a.w = pointers.weight;
    a.y = pointers.output;
    a.bias = pointers.bias;
    a.residual_data = pointers.residual;
    a.relu = pointers.relu;
    a.accumulate = pointers.accumulate;
    for_parts(results.batch, results.channels, results.height * results.width,
              [&](std::int64_t n, std::int64_t images, std::int64_t c, std::int64_t channels) {
                  a.first_n = n;
                  a.first_c = c;
                  a.walk = Walk(images, channels, results.height, results.width, inside, 0);
                  const LaunchShape shape{(a.walk.items + kThreads - 1) / kThreads, kThreads};
                  with_type(plan.problem.dtype, [&](auto tag) {
                      using T = typename decltype(tag)::type;
                      switch (plan.direction) {
                          case Direction::kForward:
                              return launch<forward_kernel<T>>(shape, stream, a);
                          case Direction::kGradInput:
                              return launch<grad_input_kernel<T>>(shape, stream, a);
                          case Direction::kGradWeight:
                              return launch<grad_weight_kernel<T>>(shape, stream, a);
                      }
                  });
              });
}

}  // namespace fastconv::cuda

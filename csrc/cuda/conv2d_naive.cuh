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
#pragma once

#include "cuda/items.cuh"
#include "cuda/walk.cuh"

namespace fastconv::cuda {
namespace {

constexpr int kNaiveThreads = 256;

struct NaiveArguments {
    Conv conv;
    Direction direction = Direction::kForward;
    std::int64_t group_in = 0, group_out = 0;
    Strides input, weight, output, residual;
    Operand x, w, y, bias, residual_data;  // the last two may be absent
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

__device__ inline std::int64_t index_of(const Strides& strides, std::int64_t n, std::int64_t c,
                                        std::int64_t h, std::int64_t w) {
    return n * strides.batch_elems + c * strides.channel_elems + h * strides.height_elems +
           w * strides.width_elems;
}

__device__ inline std::int64_t source(const Axis& axis, std::int64_t out, std::int64_t tap) {
    return out * axis.stride + tap * axis.dilation - axis.pad_lo;
}

/// The output position at which `tap` meets input element `in`, or -1.
__device__ inline std::int64_t meeting(const Axis& axis, std::int64_t in, std::int64_t tap) {
    const std::int64_t distance = in + axis.pad_lo - tap * axis.dilation;
    if (distance < 0 || distance % axis.stride != 0) return -1;
    const std::int64_t out = distance / axis.stride;
    return out < axis.out ? out : -1;
}

__device__ inline float padded(const NaiveArguments& a, std::int64_t n, std::int64_t c,
                               std::int64_t h, std::int64_t w) {
    const bool inside = h >= 0 && h < a.conv.height.in && w >= 0 && w < a.conv.width.in;
    return inside ? load_element(a.x, index_of(a.input, n, c, h, w)) : 0.0f;
}

/// This thread's result, by its four indices.
__device__ inline bool find(const NaiveArguments& a, std::int64_t& n, std::int64_t& c, int& h,
                            int& w) {
    Place place;
    if (!a.walk.find(blockIdx.x * kNaiveThreads + threadIdx.x, place)) return false;
    n = a.first_n + place.n;
    c = a.first_c + place.c;
    h = place.h;
    w = place.w;
    return true;
}

__device__ inline void naive_forward(const NaiveArguments& a) {
    std::int64_t n, k;
    int p, q;
    if (!find(a, n, k, p, q)) return;
    const Conv& conv = a.conv;
    const std::int64_t first = k / a.group_out * a.group_in;
    BlockedSum sum;
    for (std::int64_t c = 0; c < a.group_in; ++c)
        for (std::int64_t r = 0; r < conv.height.kernel; ++r)
            for (std::int64_t s = 0; s < conv.width.kernel; ++s)
                sum.add(padded(a, n, first + c, source(conv.height, p, r),
                               source(conv.width, q, s)),
                        load_element(a.w, index_of(a.weight, k, c, r, s)));
    float y = sum.value();
    if (a.bias.data) y += load_element(a.bias, k);
    if (a.residual_data.data)
        y += load_element(a.residual_data, index_of(a.residual, n, k, p, q));
    store_element(a.y, index_of(a.output, n, k, p, q), a.relu && y < 0 ? 0.0f : y);
}

__device__ inline void naive_grad_input(const NaiveArguments& a) {
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
                sum.add(load_element(a.y, index_of(a.output, n, k, p, q)),
                        load_element(a.w, index_of(a.weight, k, c % a.group_in, r, s)));
            }
        }
    float x = sum.value();
    if (a.bias.data) x += load_element(a.bias, c);
    store_element(a.x, index_of(a.input, n, c, h, w), x);
}

__device__ inline void naive_grad_weight(const NaiveArguments& a) {
    std::int64_t k, c;
    int r, s;
    if (!find(a, k, c, r, s)) return;
    const Conv& conv = a.conv;
    const std::int64_t channel = k / a.group_out * a.group_in + c;
    BlockedSum sum;
    for (std::int64_t n = 0; n < conv.batch; ++n)
        for (std::int64_t p = 0; p < conv.height.out; ++p)
            for (std::int64_t q = 0; q < conv.width.out; ++q)
                sum.add(load_element(a.y, index_of(a.output, n, k, p, q)),
                        padded(a, n, channel, source(conv.height, p, r),
                               source(conv.width, q, s)));
    const std::int64_t to = index_of(a.weight, k, c, r, s);
    store_element(a.w, to, a.accumulate ? load_element(a.w, to) + sum.value() : sum.value());
}

__global__ void __launch_bounds__(kNaiveThreads, 3) naive(const NaiveArguments a) {
    switch (a.direction) {
        case Direction::kForward: return naive_forward(a);
        case Direction::kGradInput: return naive_grad_input(a);
        case Direction::kGradWeight: return naive_grad_weight(a);
    }
}

}  // namespace
}  // namespace fastconv::cuda

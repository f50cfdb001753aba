// Convolution by its definition, one output element after the other: the kernel to check others by.
//
//   forward      y[n,k,p,q]  = sum over c, r, s of x[n,c,h(p,r),w(q,s)] w[k,c,r,s], + bias, residual, ReLU
//   grad_input   dx[n,c,h,w] = sum over k and those r, s, p, q with h(p,r) = h, w(q,s) = w
//                              of dy[n,k,p,q] w[k,c,r,s], + bias (transposed convolution)
//   grad_weight  dw[k,c,r,s] = sum over n, p, q of dy[n,k,p,q] x[n,c,h(p,r),w(q,s)]
//   h(p, r) = p * stride_h + r * dilation_h - top, w(q, s) likewise
//
// Any strides, groups and dtype; no vectors, no blocking beyond that of the sum. Outside of it x is a
// zero that takes part in the product (0 * inf is NaN), as in fastconv.reference; grad_input has the
// products that exist, no others.
#include "core/parallel.h"
#include "cpu/conv2d.h"

namespace fastconv::cpu {
namespace {

// A sum of products in blocks, so that no accumulator takes more than kBlock terms.
template <class T>
class BlockedSum {
public:
    void add(T product) {
        block_ += product;
        if (++terms_ == kBlock) {
            total_ += block_;
            block_ = T(0);
            terms_ = 0;
        }
    }
    T value() const { return total_ + block_; }

private:
    static constexpr int kBlock = 512;
    T total_ = T(0);
    T block_ = T(0);
    int terms_ = 0;
};

/// An operand (N, C, H, W) or (K, C, R, S) by its four indices.
template <class T>
struct Operand {
    T* data;
    Strides strides;

    T& at(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) const {
        return data[n * strides.batch_elems + c * strides.channel_elems +
                    h * strides.height_elems + w * strides.width_elems];
    }
};

std::int64_t source(const Axis& axis, std::int64_t out, std::int64_t tap) {
    return out * axis.stride + tap * axis.dilation - axis.pad_lo;
}

bool inside(const Axis& axis, std::int64_t position) {
    return position >= 0 && position < axis.in;
}

// The output position at which `tap` meets input element `in`, or -1.
std::int64_t meeting(const Axis& axis, std::int64_t in, std::int64_t tap) {
    const std::int64_t distance = in + axis.pad_lo - tap * axis.dilation;
    if (distance < 0 || distance % axis.stride != 0) return -1;
    const std::int64_t out = distance / axis.stride;
    return out < axis.out ? out : -1;
}

template <class T>
class Naive {
public:
    Naive(const ConvPlan& plan, const ConvPointers& pointers)
        : conv_(plan.problem), pointers_(pointers), threads_(plan.threads),
          x_{static_cast<T*>(pointers.input), plan.strides.input},
          w_{static_cast<T*>(pointers.weight), plan.strides.weight},
          y_{static_cast<T*>(pointers.output), plan.strides.output},
          residual_{static_cast<const T*>(pointers.residual), plan.strides.residual} {}

    void forward() const {
        over(conv_.batch, conv_.out_channels, conv_.height.out,
             [this](std::int64_t n, std::int64_t k, std::int64_t p) {
                 for (std::int64_t q = 0; q < conv_.width.out; ++q)
                     y_.at(n, k, p, q) = finish(correlate(n, k, p, q), n, k, p, q);
             });
    }

    void grad_input() const {
        const T* bias = static_cast<const T*>(pointers_.bias);
        over(conv_.batch, conv_.in_channels, conv_.height.in,
             [this, bias](std::int64_t n, std::int64_t c, std::int64_t h) {
                 for (std::int64_t w = 0; w < conv_.width.in; ++w) {
                     const T sum = gather(n, c, h, w);
                     x_.at(n, c, h, w) = bias ? sum + bias[c] : sum;
                 }
             });
    }

    void grad_weight() const {
        over(conv_.out_channels, conv_.group_in(), conv_.height.kernel,
             [this](std::int64_t k, std::int64_t c, std::int64_t r) {
                 for (std::int64_t s = 0; s < conv_.width.kernel; ++s) {
                     T& w = w_.at(k, c, r, s);
                     const T sum = reduce(k, c, r, s);
                     w = pointers_.accumulate ? w + sum : sum;
                 }
             });
    }

private:
    // body(i, j, k) for every triple; a task each.
    template <class Body>
    void over(std::int64_t ni, std::int64_t nj, std::int64_t nk, Body&& body) const {
        const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
        parallel_for(ni * nj * nk, threads_, mode, [&](std::int64_t task, int) {
            body(task / nk / nj, task / nk % nj, task % nk);
        });
    }

    T padded(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) const {
        return inside(conv_.height, h) && inside(conv_.width, w) ? x_.at(n, c, h, w) : T(0);
    }

    T correlate(std::int64_t n, std::int64_t k, std::int64_t p, std::int64_t q) const {
        const std::int64_t first = k / conv_.group_out() * conv_.group_in();
        BlockedSum<T> sum;
        for (std::int64_t c = 0; c < conv_.group_in(); ++c)
            for (std::int64_t r = 0; r < conv_.height.kernel; ++r)
                for (std::int64_t s = 0; s < conv_.width.kernel; ++s)
                    sum.add(padded(n, first + c, source(conv_.height, p, r),
                                   source(conv_.width, q, s)) *
                            w_.at(k, c, r, s));
        return sum.value();
    }

    T finish(T y, std::int64_t n, std::int64_t k, std::int64_t p, std::int64_t q) const {
        if (pointers_.bias) y += static_cast<const T*>(pointers_.bias)[k];
        if (residual_.data) y += residual_.at(n, k, p, q);
        return pointers_.relu && y < T(0) ? T(0) : y;
    }

    T gather(std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w) const {
        const std::int64_t first = c / conv_.group_in() * conv_.group_out();
        BlockedSum<T> sum;
        for (std::int64_t k = first; k < first + conv_.group_out(); ++k)
            for (std::int64_t r = 0; r < conv_.height.kernel; ++r) {
                const std::int64_t p = meeting(conv_.height, h, r);
                if (p < 0) continue;
                for (std::int64_t s = 0; s < conv_.width.kernel; ++s) {
                    const std::int64_t q = meeting(conv_.width, w, s);
                    if (q >= 0) sum.add(y_.at(n, k, p, q) * w_.at(k, c % conv_.group_in(), r, s));
                }
            }
        return sum.value();
    }

    T reduce(std::int64_t k, std::int64_t c, std::int64_t r, std::int64_t s) const {
        const std::int64_t channel = k / conv_.group_out() * conv_.group_in() + c;
        BlockedSum<T> sum;
        for (std::int64_t n = 0; n < conv_.batch; ++n)
            for (std::int64_t p = 0; p < conv_.height.out; ++p)
                for (std::int64_t q = 0; q < conv_.width.out; ++q)
                    sum.add(y_.at(n, k, p, q) * padded(n, channel, source(conv_.height, p, r),
                                                       source(conv_.width, q, s)));
        return sum.value();
    }

    const Conv& conv_;
    const ConvPointers& pointers_;
    int threads_;
    Operand<T> x_, w_, y_;
    Operand<const T> residual_;
};

const char* plan(ConvPlan& plan) {
    plan.phases.clear();
    plan.packed_elems = 0;
    plan.workspace_bytes = 0;
    return nullptr;
}

template <class T>
void run(const ConvPlan& plan, const ConvPointers& pointers) {
    const Naive<T> naive(plan, pointers);
    switch (plan.direction) {
        case Direction::kForward: return naive.forward();
        case Direction::kGradInput: return naive.grad_input();
        case Direction::kGradWeight: return naive.grad_weight();
    }
}

void run_either(const ConvPlan& plan, const ConvPointers& pointers, void*) {
    if (plan.problem.dtype == DType::kFloat32) run<float>(plan, pointers);
    else run<double>(plan, pointers);
}

}  // namespace

const Candidate conv2d_naive{Algorithm::kNaive, plan, run_either};

}  // namespace fastconv::cpu

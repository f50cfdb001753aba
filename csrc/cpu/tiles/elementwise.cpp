// Lines of element-wise operations (contract: cpu/kernels_elementwise.h).
#include "cpu/kernels_elementwise.h"
#include "cpu/tiles/math.h"

namespace {

using fastconv::cpu::ElementwiseKernels;
using fastconv::ElementwiseOp;

template <ElementwiseOp kOp, class T>
FC_INLINE Vec<T> apply(Vec<T> a, Vec<T> b, Vec<T> parameter) {
    const Vec<T> zero = Vec<T>::zero(), one = Vec<T>::broadcast(1);
    if constexpr (kOp == ElementwiseOp::kRelu) return {a.v <= zero.v ? zero.v : a.v};
    if constexpr (kOp == ElementwiseOp::kReluBackward) return {b.v <= zero.v ? zero.v : a.v};
    if constexpr (kOp == ElementwiseOp::kLeakyRelu)
        return {a.v > zero.v ? a.v : (a * parameter).v};
    if constexpr (kOp == ElementwiseOp::kLeakyReluBackward)
        return {b.v > zero.v ? a.v : (a * parameter).v};
    if constexpr (kOp == ElementwiseOp::kSigmoid) return sigmoid(a);
    if constexpr (kOp == ElementwiseOp::kSigmoidBackward) return a * b * (one - b);
    if constexpr (kOp == ElementwiseOp::kTanh) return tanh(a);
    if constexpr (kOp == ElementwiseOp::kTanhBackward) return a * (one - b * b);
    if constexpr (kOp == ElementwiseOp::kAdd) return a + b;
    if constexpr (kOp == ElementwiseOp::kSubtract) return a - b;
    if constexpr (kOp == ElementwiseOp::kMultiply) return a * b;
    if constexpr (kOp == ElementwiseOp::kAddRelu)
        return apply<ElementwiseOp::kRelu>(a + b, b, parameter);
}

constexpr bool takes_two(ElementwiseOp op) {
    return op == ElementwiseOp::kReluBackward || op == ElementwiseOp::kLeakyReluBackward ||
           op == ElementwiseOp::kSigmoidBackward || op == ElementwiseOp::kTanhBackward ||
           op == ElementwiseOp::kAdd || op == ElementwiseOp::kSubtract ||
           op == ElementwiseOp::kMultiply || op == ElementwiseOp::kAddRelu;
}

template <ElementwiseOp kOp, class T>
void run(std::int64_t n, const T* a, const T* b, T* y, T parameter) {
    constexpr int kLanes = Vec<T>::kLanes;
    const Vec<T> p = Vec<T>::broadcast(parameter);
    std::int64_t i = 0;
#pragma GCC unroll 4
    for (; i + kLanes <= n; i += kLanes) {
        const Vec<T> second = takes_two(kOp) ? Vec<T>::load(b + i) : p;
        apply<kOp>(Vec<T>::load(a + i), second, p).store(y + i);
    }
    if (const int left = lanes_left<T>(n, i)) {
        const Vec<T> second = takes_two(kOp) ? Vec<T>::load(b + i, left) : p;
        apply<kOp>(Vec<T>::load(a + i, left), second, p).store(y + i, left);
    }
}

template <class T>
constexpr ElementwiseKernels<T> table() {
    using Op = ElementwiseOp;
    return {{run<Op::kRelu, T>, run<Op::kReluBackward, T>, run<Op::kLeakyRelu, T>,
             run<Op::kLeakyReluBackward, T>, run<Op::kSigmoid, T>, run<Op::kSigmoidBackward, T>,
             run<Op::kTanh, T>, run<Op::kTanhBackward, T>, run<Op::kAdd, T>,
             run<Op::kSubtract, T>, run<Op::kMultiply, T>, run<Op::kAddRelu, T>}};
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const ElementwiseKernels<float> elementwise_f32 = table<float>();
extern const ElementwiseKernels<double> elementwise_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA

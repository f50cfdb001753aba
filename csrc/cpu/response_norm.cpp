// Local response normalization across channels, any strides.
//
//     y[c] = x[c] * d[c]^-beta        d[c] = k + alpha / size * sum of x[j]^2 over j near c
//     near(c) = c - size / 2 .. c + (size - 1) / 2, as far as those channels exist
//     dx[c] = g[c] * d[c]^-beta
//             - 2 alpha beta / size * x[c] * sum of g[j] x[j] d[j]^(-beta - 1) over j that c is near
//
// In C order a tile is (C, positions) and a window is some of its rows. With channels last it is
// (positions, C): each line is copied between zeros, and a window is that line at `size` shifts.
// Source: A. Krizhevsky et al., "ImageNet Classification with Deep CNNs" (2012), section 3.3; alpha
// divided by size, as in PyTorch and Caffe.
#include "core/float_mode.h"
#include "cpu/kernels_response_norm.h"
#include "cpu/lines.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

constexpr double kCost = 2;  // nanoseconds an element, roughly

/// The channels around one: `before` below, `after` above.
struct Reach {
    std::int64_t before, after;
    std::int64_t size() const { return before + after + 1; }
};

template <class T>
struct Norm {
    const ResponseNormKernels<T>& kernels;
    int index;
    ResponsePower<T> power;
    T factor;  // 2 alpha beta / size
    Reach reach;
};

template <class T>
ResponseWindow<T> rows_near(const T* data, std::int64_t pitch, std::int64_t c,
                            std::int64_t channels, const Reach& reach) {
    const std::int64_t low = std::max<std::int64_t>(c - reach.before, 0);
    const std::int64_t high = std::min(c + reach.after, channels - 1);
    return {data + low * pitch, pitch, high - low + 1};
}

// A line of n between zeros: reach.before of them before it, reach.after behind.
template <class T>
const T* padded(const T* line, std::int64_t n, const Reach& reach, T* buffer) {
    std::fill_n(buffer, reach.before, T(0));
    std::copy_n(line, n, buffer + reach.before);
    std::fill_n(buffer + reach.before + n, reach.after, T(0));
    return buffer;
}

template <class T>
void forward_columns(const Norm<T>& norm, std::int64_t channels, std::int64_t cols,
                     MatrixView<T> y, MatrixView<T> x) {
    for (std::int64_t c = 0; c < channels; ++c)
        norm.kernels.forward[norm.index](
            cols, rows_near<T>(x.data, x.row_elems, c, channels, norm.reach), norm.power,
            x.data + c * x.row_elems, y.data + c * y.row_elems);
}

template <class T>
void forward_rows(const Norm<T>& norm, std::int64_t rows, std::int64_t channels, MatrixView<T> y,
                  MatrixView<T> x, T* buffer) {
    const std::int64_t pitch = channels + norm.reach.size() - 1;
    for (std::int64_t r = 0; r < rows; ++r)
        padded<T>(x.data + r * x.row_elems, channels, norm.reach, buffer + r * pitch);
    for (std::int64_t r = 0; r < rows; ++r)
        norm.kernels.forward[norm.index](channels, {buffer + r * pitch, 1, norm.reach.size()},
                                         norm.power, x.data + r * x.row_elems,
                                         y.data + r * y.row_elems);
}

// j that c is near: the reach turned around.
Reach turned(const Reach& reach) { return {reach.after, reach.before}; }

template <class T>
void backward_columns(const Norm<T>& norm, std::int64_t channels, std::int64_t cols,
                      const MatrixView<T>* view, T* ratio) {
    const MatrixView<T>&dx = view[0], &g = view[1], &x = view[2];
    for (std::int64_t c = 0; c < channels; ++c)
        norm.kernels.ratios[norm.index](
            cols, rows_near<T>(x.data, x.row_elems, c, channels, norm.reach), norm.power,
            x.data + c * x.row_elems, g.data + c * g.row_elems, ratio + c * cols,
            dx.data + c * dx.row_elems);
    for (std::int64_t c = 0; c < channels; ++c)
        norm.kernels.finish(cols, rows_near<T>(ratio, cols, c, channels, turned(norm.reach)),
                            norm.factor, x.data + c * x.row_elems, dx.data + c * dx.row_elems);
}

template <class T>
void backward_rows(const Norm<T>& norm, std::int64_t rows, std::int64_t channels,
                   const MatrixView<T>* view, T* buffer) {
    const MatrixView<T>&dx = view[0], &g = view[1], &x = view[2];
    const std::int64_t pitch = channels + norm.reach.size() - 1;
    const Reach back = turned(norm.reach);
    T* const ratio = buffer + rows * pitch;
    for (std::int64_t r = 0; r < rows; ++r)
        padded<T>(x.data + r * x.row_elems, channels, norm.reach, buffer + r * pitch);
    for (std::int64_t r = 0; r < rows; ++r) {
        T* const line = ratio + r * pitch;
        std::fill_n(line, back.before, T(0));
        norm.kernels.ratios[norm.index](channels, {buffer + r * pitch, 1, norm.reach.size()},
                                        norm.power, x.data + r * x.row_elems,
                                        g.data + r * g.row_elems, line + back.before,
                                        dx.data + r * dx.row_elems);
        std::fill_n(line + back.before + channels, back.after, T(0));
    }
    for (std::int64_t r = 0; r < rows; ++r)
        norm.kernels.finish(channels, {ratio + r * pitch, 1, norm.reach.size()}, norm.factor,
                            x.data + r * x.row_elems, dx.data + r * dx.row_elems);
}

template <class T>
void run(const ResponseNorm& call, const Tensor& result, const Tensor* grad, const Isa& isa,
         int threads) {
    const FloatModeScope scope(FloatMode::kIeee);  // the coefficients are made on this thread
    const Tensor* operands[] = {&result, grad ? grad : &call.x, &call.x};
    const int count = grad ? 3 : 2;
    const Lines lines = cut_lines(operands, count, call.axis);
    const Kernels<T>& kernels = isa.kernels<T>();
    // No window is longer than the channels on both sides of one.
    const std::int64_t channels = lines.length;
    const Reach reach{std::min(call.size / 2, channels), std::min((call.size - 1) / 2, channels)};
    const double slope = call.alpha / static_cast<double>(call.size);
    const Norm<T> norm{*kernels.response_norm,
                       response_power_index(call.beta),
                       {static_cast<T>(call.k), static_cast<T>(slope), static_cast<T>(call.beta)},
                       static_cast<T>(2 * slope * call.beta),
                       reach};
    const std::int64_t line = channels + reach.size() - 1;
    const std::int64_t extra = lines.as_rows ? lines.most_rows() * line * (count - 1)
                               : grad        ? lines.most_rows() * lines.most_cols()
                                             : 0;
    T* data[kMaxLineOperands] = {};
    for (int k = 0; k < count; ++k) data[k] = static_cast<T*>(operands[k]->data);
    threads = threads_for(kCost * lines.elements(), threads);
    for_lines<T>(lines, data, extra, kernels, threads,
                 [&](std::int64_t rows, std::int64_t cols, const MatrixView<T>* view, T* buffer) {
        if (grad && lines.as_rows) return backward_rows(norm, rows, cols, view, buffer);
        if (grad) return backward_columns(norm, rows, cols, view, buffer);
        if (lines.as_rows) return forward_rows(norm, rows, cols, view[0], view[1], buffer);
        forward_columns(norm, rows, cols, view[0], view[1]);
    });
}

}  // namespace

void run_response_norm(const ResponseNorm& call, const Tensor& y, const Isa& isa, int threads) {
    if (y.dtype == DType::kFloat32) return run<float>(call, y, nullptr, isa, threads);
    run<double>(call, y, nullptr, isa, threads);
}

void run_response_norm_backward(const ResponseNorm& call, const Tensor& grad_output,
                                const Tensor& grad_input, const Isa& isa, int threads) {
    if (grad_input.dtype == DType::kFloat32)
        return run<float>(call, grad_input, &grad_output, isa, threads);
    run<double>(call, grad_input, &grad_output, isa, threads);
}

}  // namespace fastconv::cpu

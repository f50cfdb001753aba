// Cross-entropy of logits (N, C) against class numbers, any strides.
//
//     L = -(1 - e) log p_t - e / C * sum over c of log p_c        p = softmax(x), e = label smoothing
//     dL/dx_c = p_c - q_c        q_c = (1 - e) [c = t] + e / C
//
// log p_c = (x_c - m) - log(sum of exp(x - m)), m the row's maximum. The sums of a row are made in its
// dtype by blocks and joined in double; what is left, a few operations a row, is done in double.
#include <cmath>

#include "core/float_mode.h"
#include "cpu/grid.h"
#include "cpu/kernels_softmax.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

constexpr double kCost = 1.5;                // nanoseconds an element, roughly
constexpr std::int64_t kTaskElements = 8192;

double loss_of(const LineSums& sums, double target_logit, double smoothing, double classes) {
    const double log_sum = std::log(sums.exponentials);
    double loss = 0;  // a class of weight 0 costs nothing, even where its probability is 0
    if (smoothing < 1) loss -= (1 - smoothing) * (target_logit - sums.maximum - log_sum);
    if (smoothing > 0) loss -= smoothing / classes * (sums.differences - classes * log_sum);
    return loss;
}

/// body(first row, rows) by tasks of some rows.
template <class Body>
void for_row_blocks(const Tensor& logits, int threads, Body&& body) {
    const std::int64_t rows = logits.size[0];
    const std::int64_t classes = std::max<std::int64_t>(logits.size[1], 1);
    const std::int64_t block = std::max<std::int64_t>(kTaskElements / classes, 1);
    threads = threads_for(kCost * static_cast<double>(rows * classes), threads);
    parallel_for((rows + block - 1) / block, threads, FloatMode::kIeee,
                 [&](std::int64_t task, int) {
        body(task * block, std::min(block, rows - task * block));
    });
}

template <class T>
struct Rows {
    T* data;
    std::int64_t row_elems, col_elems;

    explicit Rows(const Tensor& x)
        : data(static_cast<T*>(x.data)),
          row_elems(x.elems[0]),
          col_elems(x.size[1] == 1 ? 1 : x.elems[1]) {}
    T* at(std::int64_t row) const { return data + row * row_elems; }
};

template <class T>
void forward(const CrossEntropy& problem, double* losses, const Isa& isa, int threads) {
    const Rows<T> x(problem.logits);
    const std::int64_t classes = problem.logits.size[1];
    const Kernels<T>& kernels = isa.kernels<T>();
    for_row_blocks(problem.logits, threads, [&](std::int64_t first, std::int64_t rows) {
        Workspace borrowed;
        T* line = nullptr;
        if (x.col_elems != 1)
            line = static_cast<T*>(
                tile_memory(sizeof(T) * static_cast<std::size_t>(classes), borrowed));
        for (std::int64_t n = first; n < first + rows; ++n) {
            if (line)
                kernels.copy->copy(1, classes, {x.at(n), 0, x.col_elems}, {line, 0, 1});
            const T* row = line ? line : x.at(n);
            const std::int64_t target = problem.target[n * problem.target_elems];
            const LineSums sums =
                kernels.softmax->line_sums(classes, row, problem.label_smoothing > 0);
            losses[n] = loss_of(sums, static_cast<double>(row[target]), problem.label_smoothing,
                                static_cast<double>(classes));
        }
    });
}

template <class T>
void backward(const CrossEntropy& problem, const Tensor& grad, const double* scales,
              std::int64_t scale_elems, double divisor, const Isa& isa, int threads) {
    const FloatModeScope scope(FloatMode::kIeee);  // the coefficients are made on this thread
    const Rows<T> x(problem.logits), dx(grad);
    const std::int64_t classes = problem.logits.size[1];
    const Kernels<T>& kernels = isa.kernels<T>();
    const double everywhere = problem.label_smoothing / static_cast<double>(classes);
    const T at_target = static_cast<T>(1 - problem.label_smoothing + everywhere);
    for_row_blocks(problem.logits, threads, [&](std::int64_t first, std::int64_t rows) {
        Workspace borrowed;
        T* lines = nullptr;  // (2, classes): logits and gradient where they cannot stay in place
        if (x.col_elems != 1 || dx.col_elems != 1)
            lines = static_cast<T*>(
                tile_memory(2 * sizeof(T) * static_cast<std::size_t>(classes), borrowed));
        for (std::int64_t n = first; n < first + rows; ++n) {
            SoftmaxTile<T> tile{1, classes, {dx.at(n), x.at(n)}, {classes, classes}};
            if (x.col_elems != 1) {
                kernels.copy->copy(1, classes, {x.at(n), 0, x.col_elems}, {lines, 0, 1});
                tile.data[1] = lines;
            }
            if (dx.col_elems != 1) tile.data[0] = lines + classes;
            kernels.softmax->along_rows[kSoftmax](tile);
            T& wanted = tile.data[0][problem.target[n * problem.target_elems]];
            const T scale = static_cast<T>(scales[n * scale_elems] / divisor);
            const T corrected = (wanted - at_target) * scale;
            kernels.softmax->shift_and_scale(classes, tile.data[0], static_cast<T>(everywhere),
                                             scale);
            wanted = corrected;
            if (dx.col_elems != 1)
                kernels.copy->copy(1, classes, {tile.data[0], 0, 1}, {dx.at(n), 0, dx.col_elems});
        }
    });
}

// In the order of the rows.
template <class T>
double total_of(const double* losses, std::int64_t rows, bool mean, const Tensor* each) {
    const FloatModeScope scope(FloatMode::kIeee);
    double sum = 0;
    for (std::int64_t n = 0; n < rows; ++n) {
        sum += losses[n];
        if (each) static_cast<T*>(each->data)[n * each->elems[0]] = static_cast<T>(losses[n]);
    }
    return static_cast<double>(static_cast<T>(mean ? sum / static_cast<double>(rows) : sum));
}

}  // namespace

double run_cross_entropy(const CrossEntropy& problem, double* losses, bool mean, const Tensor* each,
                         const Isa& isa, int threads) {
    const std::int64_t rows = problem.logits.size[0];
    if (problem.logits.dtype == DType::kFloat32) {
        forward<float>(problem, losses, isa, threads);
        return total_of<float>(losses, rows, mean, each);
    }
    forward<double>(problem, losses, isa, threads);
    return total_of<double>(losses, rows, mean, each);
}

void run_cross_entropy_backward(const CrossEntropy& problem, const Tensor& grad,
                                const double* scales, std::int64_t scale_elems, double divisor,
                                const Isa& isa, int threads) {
    if (grad.dtype == DType::kFloat32)
        return backward<float>(problem, grad, scales, scale_elems, divisor, isa, threads);
    backward<double>(problem, grad, scales, scale_elems, divisor, isa, threads);
}

}  // namespace fastconv::cpu

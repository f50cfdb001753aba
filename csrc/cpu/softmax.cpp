// Softmax and log-softmax along any axis of arrays of any strides, forward and backward.
#include "cpu/kernels_softmax.h"
#include "cpu/lines.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

constexpr double kCost = 1.5;  // nanoseconds an element, roughly

template <class T>
void run(SoftmaxKind kind, const Tensor* const* operands, int count, int axis, const Isa& isa,
         int threads) {
    const Lines lines = cut_lines(operands, count, axis);
    const Kernels<T>& kernels = isa.kernels<T>();
    const SoftmaxFunction<T> function =
        (lines.as_rows ? kernels.softmax->along_rows : kernels.softmax->down_columns)[kind];
    T* data[kMaxLineOperands] = {};
    for (int k = 0; k < count; ++k) data[k] = static_cast<T*>(operands[k]->data);
    threads = threads_for(kCost * lines.elements(), threads);
    for_lines<T>(lines, data, 0, kernels, threads,
                 [&](std::int64_t rows, std::int64_t cols, const MatrixView<T>* view, T*) {
        SoftmaxTile<T> tile;
        tile.rows = rows;
        tile.cols = cols;
        for (int k = 0; k < count; ++k) {
            tile.data[k] = view[k].data;
            tile.pitch[k] = view[k].row_elems;
        }
        function(tile);
    });
}

}  // namespace

void run_softmax(SoftmaxKind kind, const Tensor& result, const Tensor& a, const Tensor* b, int axis,
                 const Isa& isa, int threads) {
    const Tensor* operands[] = {&result, &a, b};
    const int count = b ? 3 : 2;
    if (result.dtype == DType::kFloat32)
        return run<float>(kind, operands, count, axis, isa, threads);
    run<double>(kind, operands, count, axis, isa, threads);
}

}  // namespace fastconv::cpu

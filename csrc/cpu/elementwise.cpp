// Element-wise operations over arrays of any strides: y = op(a, b), tile by tile (grid.h); copies.
#include "cpu/grid.h"
#include "cpu/kernels_elementwise.h"
#include "ops.h"

namespace fastconv::cpu {
namespace {

// Nanoseconds an element on one core, roughly; only for whether threads are worth waking.
double cost(ElementwiseOp op) {
    return op == ElementwiseOp::kSigmoid || op == ElementwiseOp::kTanh ? 1.0 : 0.3;
}

template <class T>
void run(ElementwiseOp op, const Tensor& a, const Tensor* b, const Tensor& y, double parameter,
         const Isa& isa, int threads) {
    const Grid grid = b ? make_grid({&y, &a, b}) : make_grid({&y, &a});
    const Kernels<T>& kernels = isa.kernels<T>();
    const auto line = kernels.elementwise->run[static_cast<int>(op)];
    T* const data[] = {static_cast<T*>(y.data), static_cast<T*>(a.data),
                       b ? static_cast<T*>(b->data) : nullptr};
    const Access access[] = {kWrite, kRead, kRead};
    threads = threads_for(cost(op) * static_cast<double>(y.count()), threads);
    for_tiles<T>(grid, data, access, kernels, threads, [&](const Tile<T>& tile) {
        tile.for_lines(grid.operands, [&](std::int64_t n, T* const* at) {
            line(n, at[1], at[2], at[0], static_cast<T>(parameter));
        });
    });
}

template <class T>
void copy(const Tensor& from, const Tensor& to, const Isa& isa, int threads) {
    const Grid grid = make_grid({&to, &from});
    const Kernels<T>& kernels = isa.kernels<T>();
    T* const target = static_cast<T*>(to.data);
    const T* const source = static_cast<const T*>(from.data);
    T* const data[] = {target, nullptr};
    const Access access[] = {kNone, kNone};
    threads = threads_for(0.3 * static_cast<double>(to.count()), threads);
    for_tiles<T>(grid, data, access, kernels, threads, [&](const Tile<T>& tile) {
        kernels.copy->copy(tile.rows, tile.cols,
                           {source + tile.offset[1], grid.row_elems(1), grid.col_elems(1)},
                           {target + tile.offset[0], grid.row_elems(0), grid.col_elems(0)});
    });
}

}  // namespace

void run_copy(const Tensor& from, const Tensor& to, const Isa& isa, int threads) {
    if (to.dtype == DType::kFloat32) return copy<float>(from, to, isa, threads);
    copy<double>(from, to, isa, threads);
}

void run_elementwise(ElementwiseOp op, const Tensor& a, const Tensor* b, const Tensor& y,
                     double parameter, const Isa& isa, int threads) {
    if (y.dtype == DType::kFloat32) return run<float>(op, a, b, y, parameter, isa, threads);
    run<double>(op, a, b, y, parameter, isa, threads);
}

}  // namespace fastconv::cpu

// Tiles of batch normalization (contract: cpu/kernels_batch_norm.h).
//
// Per column, sums walk a few rows together, so that the columns' sums are loaded and stored once for
// all of them; each row is a stream that the prefetcher follows, which narrow strips of columns are
// not. The affine passes go row by row: parameters come from L1, and four rows at a time measured
// 5 to 10 % slower. Per tile, four sums hide an addition's latency.
#include "cpu/kernels_batch_norm.h"
#include "cpu/tiles/line.h"
#include "cpu/tiles/math.h"

namespace {

using fastconv::cpu::AfterNorm;
using fastconv::cpu::BatchNormKernels;
using fastconv::cpu::kAddRelu;
using fastconv::cpu::kNothing;
using fastconv::cpu::kRelu;
using fastconv::cpu::Masked;
using fastconv::cpu::PositionTile;

// ---- per column ----------------------------------------------------------------------------------

/// rows_body(row, number of rows) in groups, the number a compile-time constant within the body.
template <int kRows>
struct RowCount {
    static constexpr int value = kRows;
};
template <int kGroup, class Body>
FC_INLINE void for_row_groups(std::int64_t rows, Body&& body) {
    std::int64_t r = 0;
    for (; r + kGroup <= rows; r += kGroup) body(r, RowCount<kGroup>{});
    for (; r < rows; ++r) body(r, RowCount<1>{});
}

constexpr int kSumRows = 8;

template <class T>
void clear(std::int64_t n, T* a) {
    for (std::int64_t i = 0; i < n; ++i) a[i] = 0;
}

template <class T>
void column_moments(const PositionTile<T>& tile, T* shift, T* sum, T* squares) {
    clear(tile.cols, shift);
    clear(tile.cols, sum);
    clear(tile.cols, squares);
    for_row_groups<kSumRows>(tile.rows, [&](std::int64_t r, auto rows) {
        const T* x = tile.x + r * tile.x_pitch;
        for_vectors<T>(tile.cols, [&](std::int64_t c, int count) {
            Vec<T> total = load_some(shift + c, count);
#pragma GCC unroll 8
            for (int i = 0; i < decltype(rows)::value; ++i)
                total = total + load_some(x + i * tile.x_pitch + c, count);
            store_some(total, shift + c, count);
        });
    });
    const T inverse = T(1) / static_cast<T>(tile.rows);
    for (std::int64_t c = 0; c < tile.cols; ++c) shift[c] *= inverse;
    for_row_groups<kSumRows>(tile.rows, [&](std::int64_t r, auto rows) {
        const T* x = tile.x + r * tile.x_pitch;
        for_vectors<T>(tile.cols, [&](std::int64_t c, int count) {
            const Vec<T> middle = load_some(shift + c, count);
            Vec<T> first = load_some(sum + c, count), second = load_some(squares + c, count);
#pragma GCC unroll 8
            for (int i = 0; i < decltype(rows)::value; ++i) {
                const Vec<T> d = load_some(x + i * tile.x_pitch + c, count) - middle;
                first = first + d;
                second = fma(d, d, second);
            }
            store_some(first, sum + c, count);
            store_some(second, squares + c, count);
        });
    });
}

template <class T>
FC_INLINE Vec<T> where_positive(Vec<T> y, Vec<T> x) {
    const Vec<T> zero = Vec<T>::zero();
    return {y.v <= zero.v ? zero.v : x.v};
}

/// out at (r, c).
template <AfterNorm kAfter, class T>
FC_INLINE void write_normalized(const PositionTile<T>& tile, std::int64_t r, std::int64_t c,
                                int count, Vec<T> mean, Vec<T> scale, Vec<T> offset) {
    const Vec<T> x = load_some(tile.x + r * tile.x_pitch + c, count);
    Vec<T> y = fma(x - mean, scale, offset);
    if constexpr (kAfter == kAddRelu)
        y = y + load_some(tile.residual + r * tile.residual_pitch + c, count);
    if constexpr (kAfter != kNothing) y = where_positive(y, y);
    store_some(y, tile.out + r * tile.out_pitch + c, count);
}

/// g at (r, c), where x is `value`.
template <AfterNorm kAfter, class T>
FC_INLINE Vec<T> gradient(const PositionTile<T>& tile, std::int64_t r, std::int64_t c, int count,
                          Vec<T> value, Vec<T> mean, Vec<T> scale, Vec<T> bias) {
    const Vec<T> grad = load_some(tile.grad + r * tile.grad_pitch + c, count);
    return kAfter == kRelu ? where_positive(fma(value - mean, scale, bias), grad) : grad;
}

template <class T>
FC_INLINE Vec<T> grad_input_of(Vec<T> grad, Vec<T> x, Vec<T> mean, Vec<T> scale, Vec<T> offset,
                               Vec<T> slope) {
    return fma(mean - x, slope, grad - offset) * scale;
}

template <AfterNorm kAfter, class T>
void column_products(const PositionTile<T>& tile, const Masked<T>& mask, T* sum, T* products) {
    clear(tile.cols, sum);
    clear(tile.cols, products);
    for_row_groups<kSumRows>(tile.rows, [&](std::int64_t r, auto rows) {
        const T* x = tile.x + r * tile.x_pitch;
        for_vectors<T>(tile.cols, [&](std::int64_t c, int count) {
            const Vec<T> middle = load_some(mask.mean + c, count);
            const Vec<T> scale = kAfter == kRelu ? load_some(mask.scale + c, count) : middle;
            const Vec<T> bias = kAfter == kRelu ? load_some(mask.bias + c, count) : middle;
            Vec<T> first = load_some(sum + c, count), second = load_some(products + c, count);
#pragma GCC unroll 8
            for (int i = 0; i < decltype(rows)::value; ++i) {
                const Vec<T> value = load_some(x + i * tile.x_pitch + c, count);
                const Vec<T> g =
                    gradient<kAfter>(tile, r + i, c, count, value, middle, scale, bias);
                first = first + g;
                second = fma(g, value - middle, second);
            }
            store_some(first, sum + c, count);
            store_some(second, products + c, count);
        });
    });
}

template <AfterNorm kAfter, class T>
void column_normalize(const PositionTile<T>& tile, const T* mean, const T* scale,
                      const T* offset) {
    for (std::int64_t r = 0; r < tile.rows; ++r)
        for_vectors<T>(tile.cols, [&](std::int64_t c, int count) {
            write_normalized<kAfter>(tile, r, c, count, load_some(mean + c, count),
                                     load_some(scale + c, count), load_some(offset + c, count));
        });
}

template <AfterNorm kAfter, class T>
void column_grad_input(const PositionTile<T>& tile, const Masked<T>& mask, const T* offset,
                       const T* slope) {
    for (std::int64_t r = 0; r < tile.rows; ++r) {
        const T* x = tile.x + r * tile.x_pitch;
        T* out = tile.out + r * tile.out_pitch;
        for_vectors<T>(tile.cols, [&](std::int64_t c, int count) {
            const Vec<T> m = load_some(mask.mean + c, count), s = load_some(mask.scale + c, count),
                         o = load_some(offset + c, count), k = load_some(slope + c, count);
            const Vec<T> b = kAfter == kRelu ? load_some(mask.bias + c, count) : o;
            const Vec<T> value = load_some(x + c, count);
            const Vec<T> g = gradient<kAfter>(tile, r, c, count, value, m, s, b);
            store_some(grad_input_of(g, value, m, s, o, k), out + c, count);
        });
    }
}

// ---- per tile ------------------------------------------------------------------------------------

constexpr int kSums = 4;

/// Two sums over all positions: add(r, i, count, first, second) adds a vector's terms to them, whose
/// lanes beyond count are to stay as they are.
template <class T, class Add>
FC_INLINE void sum_tile(const PositionTile<T>& tile, T* first, T* second, Add&& add) {
    constexpr int kLanes = Vec<T>::kLanes;
    Vec<T> a[kSums], b[kSums];
    for (int i = 0; i < kSums; ++i) a[i] = b[i] = Vec<T>::zero();
    for (std::int64_t r = 0; r < tile.rows; ++r) {
        std::int64_t c = 0;
        for (; c + kSums * kLanes <= tile.cols; c += kSums * kLanes)
#pragma GCC unroll 4
            for (int i = 0; i < kSums; ++i) add(r, c + i * kLanes, kLanes, a[i], b[i]);
#pragma GCC unroll 4
        for (int i = 0; i < kSums; ++i, c += kLanes)
            if (const int count = lanes_left<T>(tile.cols, c)) add(r, c, count, a[i], b[i]);
    }
    T lanes[kLanes];
    ((a[0] + a[1]) + (a[2] + a[3])).store(lanes);
    *first = 0;
    for (int i = 0; i < kLanes; ++i) *first += lanes[i];
    ((b[0] + b[1]) + (b[2] + b[3])).store(lanes);
    *second = 0;
    for (int i = 0; i < kLanes; ++i) *second += lanes[i];
}

template <class T>
FC_INLINE Vec<T> difference(const T* x, Vec<T> middle, int count) {
    if (count == Vec<T>::kLanes) return Vec<T>::load(x) - middle;
    return first_lanes(Vec<T>::load(x, count) - middle, count, T(0));
}

template <class T>
void tile_moments(const PositionTile<T>& tile, T* shift, T* sum, T* squares) {
    T total, unused;
    sum_tile(tile, &total, &unused,
             [&](std::int64_t r, std::int64_t c, int count, Vec<T>& a, Vec<T>&) {
        a = a + load_some(tile.x + r * tile.x_pitch + c, count);
    });
    *shift = total / static_cast<T>(tile.rows * tile.cols);
    const Vec<T> middle = Vec<T>::broadcast(*shift);
    sum_tile(tile, sum, squares,
             [&](std::int64_t r, std::int64_t c, int count, Vec<T>& a, Vec<T>& b) {
        const Vec<T> d = difference(tile.x + r * tile.x_pitch + c, middle, count);
        a = a + d;
        b = fma(d, d, b);
    });
}

template <AfterNorm kAfter, class T>
void tile_products(const PositionTile<T>& tile, const Masked<T>& mask, T* sum, T* products) {
    const Vec<T> middle = Vec<T>::broadcast(*mask.mean);
    const Vec<T> scale = kAfter == kRelu ? Vec<T>::broadcast(*mask.scale) : middle;
    const Vec<T> bias = kAfter == kRelu ? Vec<T>::broadcast(*mask.bias) : middle;
    sum_tile(tile, sum, products,
             [&](std::int64_t r, std::int64_t c, int count, Vec<T>& a, Vec<T>& b) {
        const T* x = tile.x + r * tile.x_pitch + c;
        const Vec<T> g =
            gradient<kAfter>(tile, r, c, count, load_some(x, count), middle, scale, bias);
        a = a + g;
        b = fma(g, difference(x, middle, count), b);
    });
}

template <AfterNorm kAfter, class T>
void tile_normalize(const PositionTile<T>& tile, const T* mean, const T* scale, const T* offset) {
    const Vec<T> m = Vec<T>::broadcast(*mean), s = Vec<T>::broadcast(*scale),
                 o = Vec<T>::broadcast(*offset);
    for (std::int64_t r = 0; r < tile.rows; ++r)
        for_vectors<T>(tile.cols, [&](std::int64_t c, int count) {
            write_normalized<kAfter>(tile, r, c, count, m, s, o);
        });
}

template <AfterNorm kAfter, class T>
void tile_grad_input(const PositionTile<T>& tile, const Masked<T>& mask, const T* offset,
                     const T* slope) {
    const Vec<T> m = Vec<T>::broadcast(*mask.mean), s = Vec<T>::broadcast(*mask.scale),
                 o = Vec<T>::broadcast(*offset), k = Vec<T>::broadcast(*slope);
    const Vec<T> b = kAfter == kRelu ? Vec<T>::broadcast(*mask.bias) : o;
    for (std::int64_t r = 0; r < tile.rows; ++r) {
        const T* x = tile.x + r * tile.x_pitch;
        T* out = tile.out + r * tile.out_pitch;
        for_vectors<T>(tile.cols, [&](std::int64_t c, int count) {
            const Vec<T> value = load_some(x + c, count);
            const Vec<T> g = gradient<kAfter>(tile, r, c, count, value, m, s, b);
            store_some(grad_input_of(g, value, m, s, o, k), out + c, count);
        });
    }
}

template <class T>
void join(std::int64_t channels, double before, double count, const T* shift, const T* sum,
          const T* squares, double* mean, double* deviations) {
    const double share = count / (before + count), cross = before * share, inverse = 1 / count;
    for (std::int64_t c = 0; c < channels; ++c) {
        const double first = static_cast<double>(sum[c]);
        const double delta = static_cast<double>(shift[c]) + first * inverse - mean[c];
        mean[c] += delta * share;
        deviations[c] +=
            static_cast<double>(squares[c]) - first * first * inverse + delta * delta * cross;
    }
}

template <class T>
constexpr BatchNormKernels<T> table() {
    return {{column_moments<T>,
             {column_products<kNothing, T>, column_products<kRelu, T>},
             {column_normalize<kNothing, T>, column_normalize<kRelu, T>,
              column_normalize<kAddRelu, T>},
             {column_grad_input<kNothing, T>, column_grad_input<kRelu, T>}},
            {tile_moments<T>,
             {tile_products<kNothing, T>, tile_products<kRelu, T>},
             {tile_normalize<kNothing, T>, tile_normalize<kRelu, T>, tile_normalize<kAddRelu, T>},
             {tile_grad_input<kNothing, T>, tile_grad_input<kRelu, T>}},
            join<T>};
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const BatchNormKernels<float> batch_norm_f32 = table<float>();
extern const BatchNormKernels<double> batch_norm_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA

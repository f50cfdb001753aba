// Softmax and log-softmax, forward and backward (contract: cpu/kernels_softmax.h). The maximum is
// taken off first, so that no exponential overflows:
//
//     softmax      y = exp(x - m) / s      s = sum of exp(x - m)     dx = y * (dy - sum(dy * y))
//     log_softmax  y = (x - m) - log s                               dx = dy - exp(y) * sum(dy)
//
// Lanes beyond a row's end count as -inf. max() drops a NaN that a later lane follows; it comes back
// with the sum, where its exponential is NaN.
#include "cpu/kernels_softmax.h"
#include "cpu/tiles/line.h"
#include "cpu/tiles/math.h"

namespace {

using fastconv::cpu::LineSums;
using fastconv::cpu::SoftmaxKernels;
using fastconv::cpu::SoftmaxTile;

constexpr int kBlock = 512;      // terms an accumulator
constexpr int kWide = 4;         // vectors of columns walked together: 4 sums hide an add's latency
constexpr double kInfinity = __builtin_inf();

/// Lanes joined in halves: 4 steps of latency for 16 lanes, not 16.
template <class T, class Join>
FC_INLINE T joined_lanes(Vec<T> x, Join&& join) {
    T lanes[Vec<T>::kLanes];
    x.store(lanes);
#pragma GCC unroll 4
    for (int half = Vec<T>::kLanes / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) lanes[i] = join(lanes[i], lanes[i + half]);
    return lanes[0];
}

template <class T>
FC_INLINE T highest_lane(Vec<T> x) {
    return joined_lanes(x, [](T a, T b) { return a > b ? a : b; });
}

template <class T>
FC_INLINE double sum_of_lanes(Vec<T> x) {
    return static_cast<double>(joined_lanes(x, [](T a, T b) { return a + b; }));
}

/// The sum of term(i, count) over a line, in blocks.
template <class T, class Term>
FC_INLINE double sum_line(std::int64_t n, Term&& term) {
    double total = 0;
    for (std::int64_t begin = 0; begin < n; begin += kBlock * Vec<T>::kLanes) {
        const std::int64_t left = n - begin;
        Vec<T> sum = Vec<T>::zero();
        for_vectors<T>(left < kBlock * Vec<T>::kLanes ? left : kBlock * Vec<T>::kLanes,
                       [&](std::int64_t i, int count) { sum = sum + term(begin + i, count); });
        total += sum_of_lanes(sum);
    }
    return total;
}

// x, with -inf in the lanes that do not exist.
template <class T>
FC_INLINE Vec<T> load_below(const T* x, int count) {
    if (count == Vec<T>::kLanes) return Vec<T>::load(x);
    return first_lanes(Vec<T>::load(x, count), count, static_cast<T>(-kInfinity));
}

template <class T>
FC_INLINE T highest(std::int64_t n, const T* x) {
    Vec<T> top = Vec<T>::broadcast(static_cast<T>(-kInfinity));
    for_vectors<T>(n, [&](std::int64_t i, int count) { top = max(top, load_below(x + i, count)); });
    return highest_lane(top);
}

template <bool kLog, class T>
void along_rows(const SoftmaxTile<T>& tile) {
    for (std::int64_t r = 0; r < tile.rows; ++r) {
        const T* x = tile.data[1] + r * tile.pitch[1];
        T* y = tile.data[0] + r * tile.pitch[0];
        const Vec<T> top = Vec<T>::broadcast(highest(tile.cols, x));
        const double sum = sum_line<T>(tile.cols, [&](std::int64_t i, int count) {
            const Vec<T> e = exp(load_below(x + i, count) - top);
            if (!kLog) store_some(e, y + i, count);
            return e;
        });
        const Vec<T> by =
            Vec<T>::broadcast(static_cast<T>(kLog ? __builtin_log(sum) : 1 / sum));
        for_vectors<T>(tile.cols, [&](std::int64_t i, int count) {
            const Vec<T> value = kLog ? load_some(x + i, count) - top - by
                                      : load_some(y + i, count) * by;
            store_some(value, y + i, count);
        });
    }
}

template <bool kLog, class T>
void along_rows_backward(const SoftmaxTile<T>& tile) {
    for (std::int64_t r = 0; r < tile.rows; ++r) {
        const T* g = tile.data[1] + r * tile.pitch[1];
        const T* y = tile.data[2] + r * tile.pitch[2];
        T* dx = tile.data[0] + r * tile.pitch[0];
        const double total = sum_line<T>(tile.cols, [&](std::int64_t i, int count) {
            const Vec<T> grad = load_some(g + i, count);
            return kLog ? grad : grad * load_some(y + i, count);
        });
        const Vec<T> sum = Vec<T>::broadcast(static_cast<T>(total));
        for_vectors<T>(tile.cols, [&](std::int64_t i, int count) {
            const Vec<T> grad = load_some(g + i, count), output = load_some(y + i, count);
            store_some(kLog ? grad - exp(output) * sum : output * (grad - sum), dx + i, count);
        });
    }
}

template <class T>
FC_INLINE Vec<T> log_of_lanes(Vec<T> x) {
    T lanes[Vec<T>::kLanes];
    x.store(lanes);
    for (int i = 0; i < Vec<T>::kLanes; ++i)
        lanes[i] = static_cast<T>(__builtin_log(static_cast<double>(lanes[i])));
    return Vec<T>::load(lanes);
}

/// A strip of kVectors vectors of columns; `count` columns exist in the last.
template <class T, int kVectors>
struct Strip {
    const SoftmaxTile<T>& tile;
    std::int64_t column;
    int count;

    FC_INLINE T* at(int operand, std::int64_t row, int v) const {
        return tile.data[operand] + row * tile.pitch[operand] + column + v * Vec<T>::kLanes;
    }
    FC_INLINE int lanes(int v) const { return v == kVectors - 1 ? count : Vec<T>::kLanes; }
    FC_INLINE Vec<T> load(int operand, std::int64_t row, int v) const {
        return load_some(at(operand, row, v), lanes(v));
    }
    FC_INLINE void store(Vec<T> x, std::int64_t row, int v) const {
        store_some(x, at(0, row, v), lanes(v));
    }
    /// The sums of term(row, v) down the rows, in blocks.
    template <class Term>
    FC_INLINE void sum_rows(Vec<T>* total, Term&& term) const {
        for (int v = 0; v < kVectors; ++v) total[v] = Vec<T>::zero();
        for (std::int64_t begin = 0; begin < tile.rows; begin += kBlock) {
            const std::int64_t end = begin + kBlock < tile.rows ? begin + kBlock : tile.rows;
            Vec<T> sum[kVectors];
            for (int v = 0; v < kVectors; ++v) sum[v] = Vec<T>::zero();
            for (std::int64_t r = begin; r < end; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v) sum[v] = sum[v] + term(r, v);
            for (int v = 0; v < kVectors; ++v) total[v] = total[v] + sum[v];
        }
    }
};

template <bool kLog, class T, int kVectors>
FC_INLINE void down_strip(const Strip<T, kVectors>& strip) {
    Vec<T> top[kVectors], by[kVectors];
    for (int v = 0; v < kVectors; ++v) top[v] = Vec<T>::broadcast(static_cast<T>(-kInfinity));
    for (std::int64_t r = 0; r < strip.tile.rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) top[v] = max(top[v], strip.load(1, r, v));
    strip.sum_rows(by, [&](std::int64_t r, int v) {
        const Vec<T> e = exp(strip.load(1, r, v) - top[v]);
        if (!kLog) strip.store(e, r, v);
        return e;
    });
    for (int v = 0; v < kVectors; ++v)
        by[v] = kLog ? log_of_lanes(by[v]) : Vec<T>::broadcast(1) / by[v];
    for (std::int64_t r = 0; r < strip.tile.rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v)
            strip.store(kLog ? strip.load(1, r, v) - top[v] - by[v] : strip.load(0, r, v) * by[v],
                        r, v);
}

template <bool kLog, class T, int kVectors>
FC_INLINE void down_strip_backward(const Strip<T, kVectors>& strip) {
    Vec<T> sum[kVectors];
    strip.sum_rows(sum, [&](std::int64_t r, int v) {
        const Vec<T> grad = strip.load(1, r, v);
        return kLog ? grad : grad * strip.load(2, r, v);
    });
    for (std::int64_t r = 0; r < strip.tile.rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            const Vec<T> grad = strip.load(1, r, v), output = strip.load(2, r, v);
            strip.store(kLog ? grad - exp(output) * sum[v] : output * (grad - sum[v]), r, v);
        }
}

template <bool kBackward, bool kLog, class T>
void down_columns(const SoftmaxTile<T>& tile) {
    constexpr int kLanes = Vec<T>::kLanes;
    std::int64_t c = 0;
    for (; c + kWide * kLanes <= tile.cols; c += kWide * kLanes) {
        const Strip<T, kWide> strip{tile, c, kLanes};
        if constexpr (kBackward) down_strip_backward<kLog>(strip);
        else down_strip<kLog>(strip);
    }
    for (; c < tile.cols; c += kLanes) {
        const Strip<T, 1> strip{tile, c, lanes_left<T>(tile.cols, c)};
        if constexpr (kBackward) down_strip_backward<kLog>(strip);
        else down_strip<kLog>(strip);
    }
}

template <class T>
LineSums line_sums(std::int64_t n, const T* x, bool with_differences) {
    const T top = highest(n, x);
    const Vec<T> tops = Vec<T>::broadcast(top);
    const double exponentials = sum_line<T>(
        n, [&](std::int64_t i, int count) { return exp(load_below(x + i, count) - tops); });
    if (!with_differences) return {static_cast<double>(top), exponentials, 0};
    const double differences = sum_line<T>(n, [&](std::int64_t i, int count) {
        const Vec<T> difference = load_some(x + i, count) - tops;
        return count == Vec<T>::kLanes ? difference : first_lanes(difference, count, T(0));
    });
    return {static_cast<double>(top), exponentials, differences};
}

template <class T>
void shift_and_scale(std::int64_t n, T* y, T subtracted, T scale) {
    const Vec<T> minus = Vec<T>::broadcast(subtracted), times = Vec<T>::broadcast(scale);
    for_vectors<T>(n, [&](std::int64_t i, int count) {
        store_some((load_some(y + i, count) - minus) * times, y + i, count);
    });
}

template <class T>
constexpr SoftmaxKernels<T> table() {
    return {{along_rows<false, T>, along_rows<true, T>, along_rows_backward<false, T>,
             along_rows_backward<true, T>},
            {down_columns<false, false, T>, down_columns<false, true, T>,
             down_columns<true, false, T>, down_columns<true, true, T>},
            line_sums<T>,
            shift_and_scale<T>};
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const SoftmaxKernels<float> softmax_f32 = table<float>();
extern const SoftmaxKernels<double> softmax_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA

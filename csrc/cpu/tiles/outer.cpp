// Register tiles of the weight gradient (contract and picture: cpu/kernels_outer.h):
//   sum[i][k] (+)= sum over pixels j of x[j][i] * lines[j][k]
//
// AVX-512, 32 registers: 6 x 4 = 24 sums + 4 of the line + 1 broadcast = 29, and 9 x 3, 14 x 2,
// 24 x 1 for few columns; rows lie side by side in x, so that no pointers limit the height. AVX2 and
// baseline, 16 registers: 6 x 2 = 12 + 2 + 1 = 15, and 12 x 1. float64 has the widest tile only.
// Loads a pixel: 4 + 6 for 24 multiply-adds, half of what two load ports give.
#include "cpu/kernels_outer.h"
#include "cpu/tiles/vector.h"

namespace {

using fastconv::cpu::MatrixView;
using fastconv::cpu::OuterKernels;
using fastconv::cpu::OuterRun;
using fastconv::cpu::OuterTile;
using fastconv::cpu::Spread;

#if defined(__AVX512F__)
FC_INLINE void stream(Vec<float> x, float* p) { _mm512_stream_ps(p, x.v); }
FC_INLINE void stream(Vec<double> x, double* p) { _mm512_stream_pd(p, x.v); }
#elif defined(__AVX2__)
FC_INLINE void stream(Vec<float> x, float* p) { _mm256_stream_ps(p, x.v); }
FC_INLINE void stream(Vec<double> x, double* p) { _mm256_stream_pd(p, x.v); }
#else
template <class T>
FC_INLINE void stream(Vec<T> x, T* p) { x.store(p); }
#endif

void settle() {
#if defined(__AVX2__)
    _mm_sfence();
#endif
}

// Asking for a line ahead at each pixel takes turns at the load ports: 3 to 8 % on AVX2.
template <bool kAhead, class T, int Rows, int Vectors>
FC_INLINE void sum_runs(const OuterTile<T>& tile, Vec<T> (&acc)[Rows][Vectors]) {
    constexpr int kLanes = Vec<T>::kLanes;
    constexpr int kWidth = Vectors * kLanes;
    const OuterRun<T>* run = tile.runs;
    const OuterRun<T>* const end = run + tile.run_count;
    const std::int64_t pitch = tile.x_pitch, ahead_step = tile.ahead_step;
    const T* ahead = tile.ahead;
    for (; run != end; ++run) {
        const T* x = run->x + tile.x_offset;
        const T* line = tile.lines + run->pixel * kWidth;
        for (std::int64_t j = run->count; j > 0; --j, x += pitch, line += kWidth) {
            Vec<T> y[Vectors];
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) y[v] = Vec<T>::load(line + v * kLanes);
            if constexpr (kAhead) {
                __builtin_prefetch(ahead, 0, 2);
                ahead += ahead_step;
            }
#pragma GCC unroll 24
            for (int i = 0; i < Rows; ++i) {
                const Vec<T> a = Vec<T>::broadcast(x[i]);
#pragma GCC unroll 4
                for (int v = 0; v < Vectors; ++v) acc[i][v] = fma(a, y[v], acc[i][v]);
            }
        }
    }
}

template <class T, int Rows, int Vectors>
void outer_tile(const OuterTile<T>& tile) {
    constexpr int kLanes = Vec<T>::kLanes;
    Vec<T> acc[Rows][Vectors];
#pragma GCC unroll 24
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) acc[i][v] = Vec<T>::zero();

    // Totals that are not in the cache take as long as some thirty positions: ask for them now.
    if (tile.cold && !tile.stream) {
#pragma GCC unroll 24
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v)
                __builtin_prefetch(tile.sum + i * tile.sum_pitch + v * kLanes, 1);
    }
    if (tile.ahead) sum_runs<true>(tile, acc);
    else sum_runs<false>(tile, acc);
    if (tile.stream) {
#pragma GCC unroll 24
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v)
                stream(acc[i][v], tile.sum + i * tile.sum_pitch + v * kLanes);
        return;
    }
#pragma GCC unroll 24
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
            T* sum = tile.sum + i * tile.sum_pitch + v * kLanes;
            (tile.first ? acc[i][v] : Vec<T>::load(sum) + acc[i][v]).store(sum);
        }
}

template <class T>
void add(std::int64_t count, const T* from, T* to) {
    constexpr int kLanes = Vec<T>::kLanes;
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
        (Vec<T>::load(to + i) + Vec<T>::load(from + i)).store(to + i);
    if (const int left = lanes_left<T>(count, i))
        (Vec<T>::load(to + i, left) + Vec<T>::load(from + i, left)).store(to + i, left);
}

// Columns side by side: four vectors of them at a time, each the sum of its lines from first to last.
template <class T, int Vectors>
FC_INLINE void sum_lines(std::int64_t rows, std::int64_t cols, const T* from, std::int64_t row_elems,
                         T* sum) {
    constexpr int kLanes = Vec<T>::kLanes;
    Vec<T> acc[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) acc[v] = Vec<T>::zero();
    const int left = lanes_left<T>(cols, (Vectors - 1) * kLanes);
    for (std::int64_t r = 0; r < rows; ++r, from += row_elems) {
#pragma GCC unroll 4
        for (int v = 0; v + 1 < Vectors; ++v) acc[v] = acc[v] + Vec<T>::load(from + v * kLanes);
        const T* last = from + (Vectors - 1) * kLanes;
        acc[Vectors - 1] =
            acc[Vectors - 1] + (left == kLanes ? Vec<T>::load(last) : Vec<T>::load(last, left));
    }
#pragma GCC unroll 4
    for (int v = 0; v + 1 < Vectors; ++v) acc[v].store(sum + v * kLanes);
    acc[Vectors - 1].store(sum + (Vectors - 1) * kLanes, left);
}

// Rows side by side: four vectors of them in flight, their lanes added in order at the end.
template <class T>
FC_INLINE T sum_run(std::int64_t count, const T* from) {
    constexpr int kLanes = Vec<T>::kLanes;
    Vec<T> acc[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) acc[v] = Vec<T>::zero();
    std::int64_t i = 0;
    for (; i + 4 * kLanes <= count; i += 4 * kLanes)
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) acc[v] = acc[v] + Vec<T>::load(from + i + v * kLanes);
    for (; i < count; i += kLanes)
        acc[0] = acc[0] + Vec<T>::load(from + i, lanes_left<T>(count, i));
    T lanes[kLanes];
    ((acc[0] + acc[1]) + (acc[2] + acc[3])).store(lanes);
    T total = lanes[0];
    for (int l = 1; l < kLanes; ++l) total += lanes[l];
    return total;
}

template <class T>
void sum_rows(std::int64_t rows, std::int64_t cols, MatrixView<const T> from, T* sum) {
    constexpr int kLanes = Vec<T>::kLanes;
    if (from.col_elems == 1) {
        std::int64_t c = 0;
        for (; c + 3 * kLanes < cols; c += 4 * kLanes)
            sum_lines<T, 4>(rows, cols - c, from.data + c, from.row_elems, sum + c);
        for (; c < cols; c += kLanes)
            sum_lines<T, 1>(rows, cols - c, from.data + c, from.row_elems, sum + c);
        return;
    }
    for (std::int64_t c = 0; c < cols; ++c) {
        const T* column = from.data + c * from.col_elems;
        if (from.row_elems == 1) {
            sum[c] = sum_run(rows, column);
            continue;
        }
        T total = 0;
        for (std::int64_t r = 0; r < rows; ++r) total += column[r * from.row_elems];
        sum[c] = total;
    }
}

// Lines in turn within a position: a position's loads wait for the stores of one before that overlaps it
// and was stored in other pieces, some 15 cycles unless there is other work.
template <class T, int Vectors>
void spread_columns(const Spread<T>& spread) {
    constexpr int kLanes = Vec<T>::kLanes;
    constexpr int kFull = (Vectors - 1) * kLanes;
    const int left = lanes_left<T>(spread.cols, kFull);
    for (std::int64_t j = 0; j < spread.positions; ++j) {
        const T* from = spread.from + j * spread.from_step;
        T* to = spread.to + j * spread.step;
        for (std::int64_t i = 0; i < spread.lines; ++i) {
#pragma GCC unroll 4
            for (int v = 0; v < kFull; v += kLanes)
                (Vec<T>::load(to + v) + Vec<T>::load(from + v)).store(to + v);
            (Vec<T>::load(to + kFull, left) + Vec<T>::load(from + kFull, left))
                .store(to + kFull, left);
            from += spread.from_line_elems;
            to += spread.line_elems;
        }
    }
}

template <class T>
void spread_any(const Spread<T>& spread) {
    constexpr int kLanes = Vec<T>::kLanes;
    if (spread.cols <= kLanes) return spread_columns<T, 1>(spread);
    if (spread.cols <= 2 * kLanes) return spread_columns<T, 2>(spread);
    if (spread.cols <= 3 * kLanes) return spread_columns<T, 3>(spread);
    spread_columns<T, 4>(spread);
}

template <class T, int Vectors, int Rows>
constexpr void add_tiles(OuterKernels<T>& kernels) {
    if constexpr (Rows > 0) {
        add_tiles<T, Vectors, Rows - 1>(kernels);
        kernels.tile[Vectors][Rows] = outer_tile<T, Rows, Vectors>;
        kernels.max_rows[Vectors] = Rows;
    }
}

template <class T>
constexpr OuterKernels<T> table() {
    OuterKernels<T> kernels{};
    kernels.lanes = Vec<T>::kLanes;
    kernels.settle = settle;
    kernels.add = add<T>;
    kernels.sum_rows = sum_rows<T>;
    kernels.spread = spread_any<T>;
#if defined(__AVX512F__)
    add_tiles<T, 4, 6>(kernels);
    if constexpr (sizeof(T) == 4) {
        add_tiles<T, 3, 9>(kernels);
        add_tiles<T, 2, 14>(kernels);
        add_tiles<T, 1, 24>(kernels);
    }
#else
    add_tiles<T, 2, 6>(kernels);
    if constexpr (sizeof(T) == 4) add_tiles<T, 1, 12>(kernels);
#endif
    return kernels;
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const OuterKernels<float> outer_f32 = table<float>();
extern const OuterKernels<double> outer_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA

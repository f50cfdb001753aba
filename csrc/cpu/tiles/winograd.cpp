// Winograd transforms of tiles (contract: cpu/kernels_winograd.h): one dimension after the other, by the
// matrices of winograd_points.h.
#include "cpu/kernels_winograd.h"
#include "cpu/tiles/pool_vector.h"
#include "cpu/tiles/vector.h"
#include "cpu/tiles/winograd_points.h"

namespace {

using fastconv::cpu::WinogradGradient;
using fastconv::cpu::WinogradInput;
using fastconv::cpu::WinogradKernels;
using fastconv::cpu::WinogradOutput;
using fastconv::cpu::WinogradSizes;
using fastconv::cpu::WinogradTaps;
using fastconv::cpu::WinogradVariant;
using fastconv::cpu::WinogradWeight;

// Of kHeight x kWidth points, from as many pixels.
template <class T, int kAlpha, int kHeight, int kWidth>
void input(const WinogradInput<T>& tile) {
    constexpr int kLanes = Vec<T>::kLanes;
    for (std::int64_t c = 0; c < tile.channels; c += kLanes) {
        const int lanes = lanes_left<T>(tile.channels, c);
        const std::int64_t channel = tile.first + c;
        Vec<T> half[kAlpha][kAlpha];
#pragma GCC unroll 8
        for (int x = 0; x < kWidth; ++x) {
            Vec<T> d[kAlpha], v[kAlpha];
#pragma GCC unroll 8
            for (int y = 0; y < kHeight; ++y) {
                const T* pixel = tile.pixels[y * kAlpha + x] + channel;
                d[y] = lanes == kLanes ? Vec<T>::load(pixel) : Vec<T>::load(pixel, lanes);
            }
            Points<kAlpha>::template input<kHeight, T>(d, v);
#pragma GCC unroll 8
            for (int y = 0; y < kAlpha; ++y)
                if (Points<kAlpha>::uses(kHeight, y)) half[y][x] = v[y];
        }
#pragma GCC unroll 8
        for (int y = 0; y < kAlpha; ++y) {
            if (!Points<kAlpha>::uses(kHeight, y)) continue;
            Vec<T> v[kAlpha];
            Points<kAlpha>::template input<kWidth, T>(half[y], v);
#pragma GCC unroll 8
            for (int x = 0; x < kAlpha; ++x)
                if (Points<kAlpha>::uses(kWidth, x))
                    v[x].store(tile.points + (y * kAlpha + x) * tile.point_elems + c);
        }
    }
}

template <class T, int M, int R>
void weight(const WinogradWeight<T>& panel) {
    constexpr int kAlpha = M + R - 1;
    for (int vector = 0; vector < panel.vectors; ++vector) {
        const std::int64_t k = static_cast<std::int64_t>(vector) * Vec<T>::kLanes;
        Vec<T> half[kAlpha][R];
#pragma GCC unroll 5
        for (int s = 0; s < R; ++s) {
            Vec<T> g[R], u[kAlpha];
#pragma GCC unroll 5
            for (int r = 0; r < R; ++r)
                g[r] = Vec<T>::load(panel.taps + (r * R + s) * panel.tap_elems + k);
            Points<kAlpha>::template weight<R, T>(g, u);
#pragma GCC unroll 8
            for (int y = 0; y < kAlpha; ++y) half[y][s] = u[y];
        }
#pragma GCC unroll 8
        for (int y = 0; y < kAlpha; ++y) {
            Vec<T> u[kAlpha];
            Points<kAlpha>::template weight<R, T>(half[y], u);
#pragma GCC unroll 8
            for (int x = 0; x < kAlpha; ++x)
                u[x].store(panel.points + (y * kAlpha + x) * panel.point_elems + k);
        }
    }
}

/// Along the height of a tile with `Height` rows of outputs: half[row][x].
template <int Alpha, int R, int Width, int Height, class T>
FC_INLINE void output_rows(const WinogradOutput<T>& tile, std::int64_t k, Vec<T> (&half)[Height][Alpha]) {
    constexpr int kHeight = Height + R - 1;
#pragma GCC unroll 8
    for (int x = 0; x < Alpha; ++x) {
        if (!Points<Alpha>::uses(Width + R - 1, x)) continue;
        Vec<T> m[Alpha], y[Height];
#pragma GCC unroll 8
        for (int p = 0; p < Alpha; ++p)
            if (Points<Alpha>::uses(kHeight, p))
                m[p] = Vec<T>::load(tile.points + (p * Alpha + x) * tile.point_elems + k);
        Points<Alpha>::template output<kHeight, Height, T>(m, y);
#pragma GCC unroll 6
        for (int i = 0; i < Height; ++i) half[i][x] = y[i];
    }
}

/// A sum with what the call adds to it; `residual` is the position's, or null.
template <class T>
FC_INLINE Vec<T> finished(const WinogradOutput<T>& tile, Vec<T> sum, Vec<T> bias, const T* residual,
                          int lanes) {
    Vec<T> value = tile.bias ? sum + bias : sum;
    if (residual) value = value + Vec<T>::load(residual, lanes);
    return tile.relu ? max(Vec<T>::zero(), value) : value;
}

template <class T, int M, int R, int Height, int Width>
void output(const WinogradOutput<T>& tile) {
    constexpr int kAlpha = M + R - 1;
    constexpr int kLanes = Vec<T>::kLanes;
    for (std::int64_t k = 0; k < tile.cols; k += kLanes) {
        const int lanes = lanes_left<T>(tile.cols, k);
        const Vec<T> bias = tile.bias ? Vec<T>::load(tile.bias + k, lanes) : Vec<T>::zero();
        Vec<T> half[Height][kAlpha];
        output_rows<kAlpha, R, Width>(tile, k, half);
#pragma GCC unroll 6
        for (int i = 0; i < Height; ++i) {
            Vec<T> y[Width];
            Points<kAlpha>::template output<Width + R - 1, Width, T>(half[i], y);
#pragma GCC unroll 6
            for (int j = 0; j < Width; ++j) {
                T* pixel = tile.pixels[i * M + j];
                if (!pixel) continue;
                const T* residual = tile.residual[i * M + j];
                const Vec<T> value = finished(tile, y[j], bias, residual ? residual + k : nullptr, lanes);
                if (lanes == kLanes) value.store(pixel + k);
                else value.store(pixel + k, lanes);
            }
        }
    }
}

// The order of maxima and the NaN are those of max_pass (tiles/pool.cpp): the same bits.
template <class T, int M, int R, int Height, int Width>
void pooled(const WinogradOutput<T>& tile) {
    constexpr int kAlpha = M + R - 1;
    constexpr int kLanes = Vec<T>::kLanes;
    const Vec<T> not_a_number = Vec<T>::broadcast(static_cast<T>(__builtin_nanf("")));
    for (std::int64_t k = 0; k < tile.cols; k += kLanes) {
        const int lanes = lanes_left<T>(tile.cols, k);
        const Vec<T> bias = tile.bias ? Vec<T>::load(tile.bias + k, lanes) : Vec<T>::zero();
        Vec<T> half[Height][kAlpha];
        output_rows<kAlpha, R, Width>(tile, k, half);
#pragma GCC unroll 3
        for (int i = 0; i + 1 < Height; i += 2) {
            Vec<T> y[2][Width];
            Points<kAlpha>::template output<Width + R - 1, Width, T>(half[i], y[0]);
            Points<kAlpha>::template output<Width + R - 1, Width, T>(half[i + 1], y[1]);
#pragma GCC unroll 3
            for (int j = 0; j + 1 < Width; j += 2) {
                T* pixel = tile.pixels[i / 2 * (M / 2) + j / 2];
                if (!pixel) continue;
                Vec<T> best;
                auto nan = Lane<T>::none();
#pragma GCC unroll 4
                for (int tap = 0; tap < 4; ++tap) {
                    const T* residual = tile.residual[(i + tap / 2) * M + j + tap % 2];
                    const Vec<T> value = finished(tile, y[tap / 2][j + tap % 2], bias,
                                                  residual ? residual + k : nullptr, lanes);
                    best = tap == 0 ? value : max(value, best);
                    nan = Lane<T>::either(nan, Lane<T>::is_nan(value));
                }
                best = Lane<T>::select(nan, not_a_number, best);
                if (lanes == kLanes) best.store(pixel + k);
                else best.store(pixel + k, lanes);
            }
        }
    }
}

template <class T, int M, int R>
void gradient(const WinogradGradient<T>& tile) {
    constexpr int kAlpha = M + R - 1;
    constexpr int kLanes = Vec<T>::kLanes;
    T* panel = tile.points;
    for (std::int64_t k = 0, in_panel = 0; k < tile.cols; k += kLanes, in_panel += kLanes) {
        if (in_panel == tile.width) {
            in_panel = 0;
            panel += tile.panel_elems;
        }
        const int lanes = lanes_left<T>(tile.cols, k);
        Vec<T> half[kAlpha][M];
#pragma GCC unroll 6
        for (int x = 0; x < M; ++x) {
            Vec<T> y[M], w[kAlpha];
#pragma GCC unroll 6
            for (int i = 0; i < M; ++i) {
                const T* pixel = tile.pixels[i * M + x] + k;
                y[i] = lanes == kLanes ? Vec<T>::load(pixel) : Vec<T>::load(pixel, lanes);
            }
            Points<kAlpha>::template gradient<M, T>(y, w);
#pragma GCC unroll 8
            for (int p = 0; p < kAlpha; ++p) half[p][x] = w[p];
        }
#pragma GCC unroll 8
        for (int p = 0; p < kAlpha; ++p) {
            Vec<T> w[kAlpha];
            Points<kAlpha>::template gradient<M, T>(half[p], w);
#pragma GCC unroll 8
            for (int q = 0; q < kAlpha; ++q)
                w[q].store(panel + (p * kAlpha + q) * tile.point_elems + in_panel);
        }
    }
}

template <class T, int M, int R>
void taps(const WinogradTaps<T>& line) {
    constexpr int kAlpha = M + R - 1;
    for (int vector = 0; vector < line.vectors; ++vector) {
        const std::int64_t k = static_cast<std::int64_t>(vector) * Vec<T>::kLanes;
        Vec<T> half[R][kAlpha];
#pragma GCC unroll 8
        for (int q = 0; q < kAlpha; ++q) {
            Vec<T> m[kAlpha], g[R];
#pragma GCC unroll 8
            for (int p = 0; p < kAlpha; ++p)
                m[p] = Vec<T>::load(line.points + (p * kAlpha + q) * line.point_elems + k);
            Points<kAlpha>::template taps<R, T>(m, g);
#pragma GCC unroll 5
            for (int r = 0; r < R; ++r) half[r][q] = g[r];
        }
#pragma GCC unroll 5
        for (int r = 0; r < R; ++r) {
            Vec<T> g[R];
            Points<kAlpha>::template taps<R, T>(half[r], g);
#pragma GCC unroll 5
            for (int s = 0; s < R; ++s) g[s].store(line.taps + (r * R + s) * line.tap_elems + k);
        }
    }
}

// From Height x Width points down to the fewest; over eight, which `auto` does not take, all alone.
template <class T, int Alpha, int Height = Alpha, int Width = Alpha>
constexpr void fill_inputs(WinogradSizes<WinogradInput<T>>& inputs) {
    constexpr int kFewest = 3;
    inputs.of[Height][Width] = input<T, Alpha, Height, Width>;
    if constexpr (Alpha > 6) return;
    else if constexpr (Width > kFewest) fill_inputs<T, Alpha, Height, Width - 1>(inputs);
    else if constexpr (Height > kFewest) fill_inputs<T, Alpha, Height - 1, Alpha>(inputs);
}

// The same by outputs. Windows of a pooling lie in one tile where m is even.
template <class T, int M, int R, int Height = M, int Width = M>
constexpr void fill_sizes(WinogradVariant<T>& variant) {
    variant.output.of[Height][Width] = output<T, M, R, Height, Width>;
    if constexpr (M % 2 == 0 && Height > 1 && Width > 1)
        variant.pooled.of[Height][Width] = pooled<T, M, R, Height, Width>;
    if constexpr (M + R - 1 > 6) return;
    else if constexpr (Width > 1) fill_sizes<T, M, R, Height, Width - 1>(variant);
    else if constexpr (Height > 1) fill_sizes<T, M, R, Height - 1, M>(variant);
}

template <class T, int M, int R>
constexpr WinogradVariant<T> variant() {
    WinogradVariant<T> all{};
    all.m = M;
    all.r = R;
    all.weight = weight<T, M, R>;
    all.gradient = gradient<T, M, R>;
    all.taps = taps<T, M, R>;
    all.uses = Points<M + R - 1>::uses;
    fill_inputs<T, M + R - 1>(all.input);
    fill_sizes<T, M, R>(all);
    return all;
}

constexpr WinogradKernels<float> table() {
    return {{variant<float, 2, 3>(), variant<float, 4, 3>(), variant<float, 2, 5>(),
             variant<float, 6, 3>(), variant<float, 4, 5>(), variant<float, 3, 4>()}};
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const WinogradKernels<float> winograd_f32 = table();
// float64 verifies: it has no Winograd, and this table is never used.
extern const WinogradKernels<double> winograd_f64{};
}  // namespace fastconv::cpu::FC_ISA

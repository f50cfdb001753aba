// Winograd transforms (contract: cpu/kernels_winograd.h), derived as Toom-Cook over the points
// 0, +-a (, +-b), infinity. With N(x) the product of (x - p) over the finite points p and
// N_p(x) = N(x) / (x - p):
//   B^T, row p    the coefficients of N_p;   row infinity: the coefficients of N
//   G, row p      (1, p, ..., p^(r-1)) / N_p(p);   row infinity: (0, ..., 0, 1)
//   A^T, col p    (1, p, ..., p^(m-1));   column infinity: (0, ..., 0, 1)
// The weights' gradient uses the same matrices transposed: A for grad_output, G^T for the taps.
// Rows of +p and -p share their even and odd parts, so a one-dimensional pass over six points is 12
// operations. a = 5/8 and b = 3/2 are the points of least float32 error found on a grid (a third of
// that of 1 and 2) and cost no more: all constants are exact binary fractions but G's.
// A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015);
// tests/test_winograd.py derives the matrices again with rational numbers.
#include "cpu/kernels_winograd.h"
#include "cpu/tiles/vector.h"

namespace {

using fastconv::cpu::WinogradGradient;
using fastconv::cpu::WinogradInput;
using fastconv::cpu::WinogradKernels;
using fastconv::cpu::WinogradOutput;
using fastconv::cpu::WinogradTaps;
using fastconv::cpu::WinogradVariant;
using fastconv::cpu::WinogradWeight;

template <class T>
FC_INLINE Vec<T> times(double constant, Vec<T> v) {
    return Vec<T>::broadcast(static_cast<T>(constant)) * v;
}

/// c + constant * v
template <class T>
FC_INLINE Vec<T> plus(Vec<T> c, double constant, Vec<T> v) {
    return fma(Vec<T>::broadcast(static_cast<T>(constant)), v, c);
}

// ---- one-dimensional transforms, by the number of points ----------------------------------------

template <int Alpha>
struct Points;

// Points 0, 1, -1, infinity.
template <>
struct Points<4> {
    template <class T>
    static FC_INLINE void input(const Vec<T> (&d)[4], Vec<T> (&v)[4]) {
        v[0] = d[2] - d[0];
        v[1] = d[2] + d[1];
        v[2] = d[2] - d[1];
        v[3] = d[3] - d[1];
    }
    template <int R, class T>
    static FC_INLINE void weight(const Vec<T> (&g)[R], Vec<T> (&u)[4]) {
        static_assert(R == 3, "F(2,3)");
        const Vec<T> even = times(0.5, g[0] + g[2]), odd = times(0.5, g[1]);
        u[0] = times(-1.0, g[0]);
        u[1] = even + odd;
        u[2] = even - odd;
        u[3] = g[2];
    }
    template <int M, class T>
    static FC_INLINE void output(const Vec<T> (&m)[4], Vec<T> (&y)[M]) {
        static_assert(M == 2, "F(2,3)");
        y[0] = m[0] + (m[1] + m[2]);
        y[1] = (m[1] - m[2]) + m[3];
    }
    template <int M, class T>
    static FC_INLINE void gradient(const Vec<T> (&y)[M], Vec<T> (&w)[4]) {
        static_assert(M == 2, "F(2,3)");
        w[0] = y[0];
        w[1] = y[0] + y[1];
        w[2] = y[0] - y[1];
        w[3] = y[1];
    }
    template <int R, class T>
    static FC_INLINE void taps(const Vec<T> (&m)[4], Vec<T> (&g)[R]) {
        static_assert(R == 3, "F(2,3)");
        const Vec<T> even = times(0.5, m[1] + m[2]);
        g[0] = even - m[0];
        g[1] = times(0.5, m[1] - m[2]);
        g[2] = even + m[3];
    }
};

// Points 0, a, -a, b, -b, infinity.
template <>
struct Points<6> {
    static constexpr double a = 5.0 / 8, b = 3.0 / 2;
    static constexpr double a2 = a * a, b2 = b * b;

    template <class T>
    static FC_INLINE void input(const Vec<T> (&d)[6], Vec<T> (&v)[6]) {
        v[0] = plus(plus(d[4], -(a2 + b2), d[2]), a2 * b2, d[0]);
        const Vec<T> even_a = plus(d[4], -b2, d[2]), odd_a = plus(d[3], -b2, d[1]);
        v[1] = plus(even_a, a, odd_a);
        v[2] = plus(even_a, -a, odd_a);
        const Vec<T> even_b = plus(d[4], -a2, d[2]), odd_b = plus(d[3], -a2, d[1]);
        v[3] = plus(even_b, b, odd_b);
        v[4] = plus(even_b, -b, odd_b);
        v[5] = plus(plus(d[5], -(a2 + b2), d[3]), a2 * b2, d[1]);
    }
    // 1 / N_p(p) of 0, +-a and +-b.
    static constexpr double scale_0 = 1 / (a2 * b2);
    static constexpr double scale_a = 1 / (2 * a2 * (a2 - b2));
    static constexpr double scale_b = 1 / (2 * b2 * (b2 - a2));

    template <int R, class T>
    static FC_INLINE void weight(const Vec<T> (&g)[R], Vec<T> (&u)[6]) {
        u[0] = times(scale_0, g[0]);
        pair<R>(g, a, scale_a, u[1], u[2]);
        pair<R>(g, b, scale_b, u[3], u[4]);
        u[5] = g[R - 1];
    }
    template <int M, class T>
    static FC_INLINE void output(const Vec<T> (&m)[6], Vec<T> (&y)[M]) {
        const Vec<T> even_a = m[1] + m[2], odd_a = m[1] - m[2];
        const Vec<T> even_b = m[3] + m[4], odd_b = m[3] - m[4];
        y[0] = m[0] + (even_a + even_b);
        y[1] = plus(times(a, odd_a), b, odd_b);
        if constexpr (M == 4) {
            y[2] = plus(times(a2, even_a), b2, even_b);
            y[3] = plus(times(a2 * a, odd_a), b2 * b, odd_b);
        }
        y[M - 1] = y[M - 1] + m[5];
    }
    template <int M, class T>
    static FC_INLINE void gradient(const Vec<T> (&y)[M], Vec<T> (&w)[6]) {
        w[0] = y[0];
        powers<M>(y, a, w[1], w[2]);
        powers<M>(y, b, w[3], w[4]);
        w[5] = y[M - 1];
    }
    template <int R, class T>
    static FC_INLINE void taps(const Vec<T> (&m)[6], Vec<T> (&g)[R]) {
        const Vec<T> even_a = times(scale_a, m[1] + m[2]), odd_a = times(scale_a * a, m[1] - m[2]);
        const Vec<T> even_b = times(scale_b, m[3] + m[4]), odd_b = times(scale_b * b, m[3] - m[4]);
        g[0] = plus(even_a + even_b, scale_0, m[0]);
        g[1] = odd_a + odd_b;
        g[2] = plus(times(a2, even_a), b2, even_b);
        if constexpr (R == 5) {
            g[3] = plus(times(a2, odd_a), b2, odd_b);
            g[4] = plus(times(a2 * a2, even_a), b2 * b2, even_b);
        }
        g[R - 1] = g[R - 1] + m[5];
    }

private:
    // y at +p and -p.
    template <int M, class T>
    static FC_INLINE void powers(const Vec<T> (&y)[M], double p, Vec<T>& plus_p, Vec<T>& minus_p) {
        Vec<T> even = y[0], odd = times(p, y[1]);
        if constexpr (M == 4) {
            even = plus(even, p * p, y[2]);
            odd = plus(odd, p * p * p, y[3]);
        }
        plus_p = even + odd;
        minus_p = even - odd;
    }
    // g at +p and -p, over N_p(p), which is the same for both.
    template <int R, class T>
    static FC_INLINE void pair(const Vec<T> (&g)[R], double p, double scale, Vec<T>& plus_p,
                               Vec<T>& minus_p) {
        Vec<T> even = plus(times(scale, g[0]), scale * p * p, g[2]);
        Vec<T> odd = times(scale * p, g[1]);
        if constexpr (R == 5) {
            even = plus(even, scale * p * p * p * p, g[4]);
            odd = plus(odd, scale * p * p * p, g[3]);
        }
        plus_p = even + odd;
        minus_p = even - odd;
    }
};

// ---- two dimensions: columns, then rows ----------------------------------------------------------

template <class T, int M, int R>
void input(const WinogradInput<T>& tile) {
    constexpr int kAlpha = M + R - 1;
    constexpr int kLanes = Vec<T>::kLanes;
    for (std::int64_t c = 0; c < tile.channels; c += kLanes) {
        const int lanes = lanes_left<T>(tile.channels, c);
        Vec<T> half[kAlpha][kAlpha];
#pragma GCC unroll 6
        for (int x = 0; x < kAlpha; ++x) {
            Vec<T> d[kAlpha], v[kAlpha];
#pragma GCC unroll 6
            for (int y = 0; y < kAlpha; ++y) {
                const T* pixel = tile.pixels[y * kAlpha + x] + c;
                d[y] = lanes == kLanes ? Vec<T>::load(pixel) : Vec<T>::load(pixel, lanes);
            }
            Points<kAlpha>::template input<T>(d, v);
#pragma GCC unroll 6
            for (int y = 0; y < kAlpha; ++y) half[y][x] = v[y];
        }
#pragma GCC unroll 6
        for (int y = 0; y < kAlpha; ++y) {
            Vec<T> v[kAlpha];
            Points<kAlpha>::template input<T>(half[y], v);
#pragma GCC unroll 6
            for (int x = 0; x < kAlpha; ++x)
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
#pragma GCC unroll 6
            for (int y = 0; y < kAlpha; ++y) half[y][s] = u[y];
        }
#pragma GCC unroll 6
        for (int y = 0; y < kAlpha; ++y) {
            Vec<T> u[kAlpha];
            Points<kAlpha>::template weight<R, T>(half[y], u);
#pragma GCC unroll 6
            for (int x = 0; x < kAlpha; ++x)
                u[x].store(panel.points + (y * kAlpha + x) * panel.point_elems + k);
        }
    }
}

template <class T, int M, int R>
void output(const WinogradOutput<T>& tile) {
    constexpr int kAlpha = M + R - 1;
    constexpr int kLanes = Vec<T>::kLanes;
    for (std::int64_t k = 0; k < tile.cols; k += kLanes) {
        const int lanes = lanes_left<T>(tile.cols, k);
        const Vec<T> bias = tile.bias ? Vec<T>::load(tile.bias + k, lanes) : Vec<T>::zero();
        Vec<T> half[M][kAlpha];
#pragma GCC unroll 6
        for (int x = 0; x < kAlpha; ++x) {
            Vec<T> m[kAlpha], y[M];
#pragma GCC unroll 6
            for (int p = 0; p < kAlpha; ++p)
                m[p] = Vec<T>::load(tile.points + (p * kAlpha + x) * tile.point_elems + k);
            Points<kAlpha>::template output<M, T>(m, y);
#pragma GCC unroll 4
            for (int i = 0; i < M; ++i) half[i][x] = y[i];
        }
#pragma GCC unroll 4
        for (int i = 0; i < M; ++i) {
            Vec<T> y[M];
            Points<kAlpha>::template output<M, T>(half[i], y);
#pragma GCC unroll 4
            for (int j = 0; j < M; ++j) {
                T* pixel = tile.pixels[i * M + j];
                if (!pixel) continue;
                Vec<T> value = tile.bias ? y[j] + bias : y[j];
                if (const T* residual = tile.residual[i * M + j])
                    value = value + Vec<T>::load(residual + k, lanes);
                if (tile.relu) value = max(Vec<T>::zero(), value);
                if (lanes == kLanes) value.store(pixel + k);
                else value.store(pixel + k, lanes);
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
#pragma GCC unroll 4
        for (int x = 0; x < M; ++x) {
            Vec<T> y[M], w[kAlpha];
#pragma GCC unroll 4
            for (int i = 0; i < M; ++i) {
                const T* pixel = tile.pixels[i * M + x] + k;
                y[i] = lanes == kLanes ? Vec<T>::load(pixel) : Vec<T>::load(pixel, lanes);
            }
            Points<kAlpha>::template gradient<M, T>(y, w);
#pragma GCC unroll 6
            for (int p = 0; p < kAlpha; ++p) half[p][x] = w[p];
        }
#pragma GCC unroll 6
        for (int p = 0; p < kAlpha; ++p) {
            Vec<T> w[kAlpha];
            Points<kAlpha>::template gradient<M, T>(half[p], w);
#pragma GCC unroll 6
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
#pragma GCC unroll 6
        for (int q = 0; q < kAlpha; ++q) {
            Vec<T> m[kAlpha], g[R];
#pragma GCC unroll 6
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

template <class T, int M, int R>
constexpr WinogradVariant<T> variant() {
    return {M, R, input<T, M, R>, weight<T, M, R>, output<T, M, R>, gradient<T, M, R>, taps<T, M, R>};
}

constexpr WinogradKernels<float> table() {
    return {{variant<float, 2, 3>(), variant<float, 4, 3>(), variant<float, 2, 5>()}};
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const WinogradKernels<float> winograd_f32 = table();
// float64 verifies: it has no Winograd, and this table is never used.
extern const WinogradKernels<double> winograd_f64{};
}  // namespace fastconv::cpu::FC_ISA

// Winograd's one-dimensional transforms, derived as Toom-Cook over the points 0, +-p (three pairs at
// most), infinity, from which the compiler makes all constants. With N(x) the product of (x - p) over the
// finite points p, and N_p(x) = N(x) / (x - p):
//   B^T, row p    the coefficients of N_p;   row infinity: the coefficients of N
//   G, row p      (1, p, ..., p^(r-1)) / N_p(p);   row infinity: (0, ..., 0, 1)
//   A^T, col p    (1, p, ..., p^(m-1));   column infinity: (0, ..., 0, 1)
// The weights' gradient uses the same matrices transposed: A for grad_output, G^T for the taps.
// A tile at the edge with fewer than m outputs needs fewer points, and takes of Alpha's the first `Used`: 0 and
// pairs, and infinity if their number is even. G stays as it is, so U is everybody's: what its 1 / N_p(p) then
// divides by too often, p minus each point left out, B^T multiplies by.
// Rows of +p and -p share their even and odd parts, so a one-dimensional pass over six points is 12
// operations, over eight 24.
// A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015);
// tests/test_winograd.py derives the matrices again with rational numbers.
#pragma once

#include "cpu/tiles/vector.h"

namespace {

template <class T>
FC_INLINE Vec<T> times(double constant, Vec<T> v) {
    return Vec<T>::broadcast(static_cast<T>(constant)) * v;
}

/// c + constant * v
template <class T>
FC_INLINE Vec<T> plus(Vec<T> c, double constant, Vec<T> v) {
    return fma(Vec<T>::broadcast(static_cast<T>(constant)), v, c);
}

template <int Alpha>
struct Points;

// Points 0, 1, -1, infinity.
template <>
struct Points<4> {
    static constexpr bool uses(int used, int point) { return point < 3 || used == 4; }

    template <int Used, class T>
    static FC_INLINE void input(const Vec<T> (&d)[4], Vec<T> (&v)[4]) {
        v[0] = d[2] - d[0];
        v[1] = d[2] + d[1];
        v[2] = d[2] - d[1];
        if constexpr (Used == 4) v[3] = d[3] - d[1];
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
    template <int Used, int M, class T>
    static FC_INLINE void output(const Vec<T> (&m)[4], Vec<T> (&y)[M]) {
        static_assert(M == Used - 2, "F(2,3)");
        y[0] = m[0] + (m[1] + m[2]);
        if constexpr (M == 2) y[1] = (m[1] - m[2]) + m[3];
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

// The positive points of Alpha: a third of the float32 error of 1 and 2; the best found for eight.
template <int Alpha>
struct Pairs;
template <>
struct Pairs<6> {
    static constexpr double p[] = {5.0 / 8, 3.0 / 2};
};
template <>
struct Pairs<8> {
    static constexpr double p[] = {1.0 / 2, 1.0, 2.0};
};

// What follows from the first kPairs pairs; all but the scales are exact binary fractions.
template <int Alpha, int kPairs = Alpha / 2 - 1>
struct Constants {
    double power[kPairs][Alpha] = {};  // p^e
    double all[kPairs + 1] = {};       // coefficients of the product of (t - p^2), t = x^2
    double without[kPairs][kPairs] = {};  // of the product over the other pairs
    double scale_0 = 0, scale[kPairs] = {};  // 1 / N_p(p) of the points 0; p and -p
    double left_0 = 1, left[kPairs] = {};  // products of p^2 - q^2 over the pairs q left out

    constexpr Constants() {
        constexpr auto& p = Pairs<Alpha>::p;
        multiply(all, -1);
        scale_0 = 1 / all[0];
        for (int i = 0; i < kPairs; ++i) {
            power[i][0] = 1;
            for (int e = 1; e < Alpha; ++e) power[i][e] = power[i][e - 1] * p[i];
            multiply(without[i], i);
            double product = 2 * p[i] * p[i];
            for (int j = 0; j < kPairs; ++j)
                if (j != i) product *= p[i] * p[i] - p[j] * p[j];
            scale[i] = 1 / product;
            left[i] = 1;
            for (int j = kPairs; j < Alpha / 2 - 1; ++j)
                left[i] *= p[i] * p[i] - Pairs<Alpha>::p[j] * Pairs<Alpha>::p[j];
        }
        for (int j = kPairs; j < Alpha / 2 - 1; ++j) left_0 *= -Pairs<Alpha>::p[j] * Pairs<Alpha>::p[j];
    }

private:
    static constexpr void multiply(double* c, int skip) {
        c[0] = 1;
        int degree = 0;
        for (int i = 0; i < kPairs; ++i) {
            if (i == skip) continue;
            const double square = Pairs<Alpha>::p[i] * Pairs<Alpha>::p[i];
            c[++degree] = 1;
            for (int k = degree - 1; k > 0; --k) c[k] = c[k - 1] - square * c[k];
            c[0] *= -square;
        }
    }
};

// Points 0, p and -p of each pair, infinity.
template <int Alpha>
struct Points {
    static constexpr int kPairs = Alpha / 2 - 1;
    static constexpr Constants<Alpha> k{};  // a table: GCC computes functions at run time here
    template <int Pairs>
    static constexpr Constants<Alpha, Pairs> of{};  // what differs with fewer

    static constexpr int pairs(int used) { return (used - 1) / 2; }
    static constexpr bool uses(int used, int point) {
        return point <= 2 * pairs(used) || (point == Alpha - 1 && used % 2 == 0);
    }

    /// d[first] c[0] + d[first + 2] c[1] + ..., the last coefficient 1.
    template <int Degree, class T>
    static FC_INLINE Vec<T> polynomial(const Vec<T> (&d)[Alpha], int first, const double* c) {
        Vec<T> sum = d[first + 2 * Degree];
#pragma GCC unroll 3
        for (int j = Degree - 1; j >= 0; --j) sum = plus(sum, c[j], d[first + 2 * j]);
        return sum;
    }

    /// Of the `Used` points, from as many d.
    template <int Used, class T>
    static FC_INLINE void input(const Vec<T> (&d)[Alpha], Vec<T> (&v)[Alpha]) {
        constexpr int kUsed = pairs(Used);
        constexpr auto& c = of<kUsed>;
        v[0] = polynomial<kUsed>(d, 0, c.all);
        if constexpr (kUsed < kPairs) v[0] = times(c.left_0, v[0]);
#pragma GCC unroll 3
        for (int i = 0; i < kUsed; ++i) {
            Vec<T> even = polynomial<kUsed - 1>(d, 2, c.without[i]);
            const Vec<T> odd = polynomial<kUsed - 1>(d, 1, c.without[i]);
            if constexpr (kUsed < kPairs) even = times(c.left[i], even);
            v[2 * i + 1] = plus(even, c.left[i] * c.power[i][1], odd);
            v[2 * i + 2] = plus(even, -c.left[i] * c.power[i][1], odd);
        }
        if constexpr (Used % 2 == 0) v[Alpha - 1] = polynomial<kUsed>(d, 1, c.all);
    }

    template <int R, class T>
    static FC_INLINE void weight(const Vec<T> (&g)[R], Vec<T> (&u)[Alpha]) {
        u[0] = times(k.scale_0, g[0]);
#pragma GCC unroll 3
        for (int i = 0; i < kPairs; ++i) {
            Vec<T> even = times(k.scale[i], g[0]), odd = times(k.scale[i] * k.power[i][1], g[1]);
#pragma GCC unroll 2
            for (int r = 2; r < R; r += 2) even = plus(even, k.scale[i] * k.power[i][r], g[r]);
#pragma GCC unroll 2
            for (int r = 3; r < R; r += 2) odd = plus(odd, k.scale[i] * k.power[i][r], g[r]);
            u[2 * i + 1] = even + odd;
            u[2 * i + 2] = even - odd;
        }
        u[Alpha - 1] = g[R - 1];
    }

    template <int Used, int M, class T>
    static FC_INLINE void output(const Vec<T> (&m)[Alpha], Vec<T> (&y)[M]) {
        constexpr int kUsed = pairs(Used);
        Vec<T> part[2][kUsed];  // even, odd
#pragma GCC unroll 3
        for (int i = 0; i < kUsed; ++i) {
            part[0][i] = m[2 * i + 1] + m[2 * i + 2];
            part[1][i] = m[2 * i + 1] - m[2 * i + 2];
        }
        y[0] = m[0] + sum(part[0]);
#pragma GCC unroll 6
        for (int j = 1; j < M; ++j) y[j] = weighted(part[j % 2], j);
        if constexpr (Used % 2 == 0) y[M - 1] = y[M - 1] + m[Alpha - 1];
    }

    template <int M, class T>
    static FC_INLINE void gradient(const Vec<T> (&y)[M], Vec<T> (&w)[Alpha]) {
        w[0] = y[0];
#pragma GCC unroll 3
        for (int i = 0; i < kPairs; ++i) {
            Vec<T> even = y[0], odd = times(k.power[i][1], y[1]);
#pragma GCC unroll 3
            for (int j = 2; j < M; j += 2) even = plus(even, k.power[i][j], y[j]);
#pragma GCC unroll 3
            for (int j = 3; j < M; j += 2) odd = plus(odd, k.power[i][j], y[j]);
            w[2 * i + 1] = even + odd;
            w[2 * i + 2] = even - odd;
        }
        w[Alpha - 1] = y[M - 1];
    }

    template <int R, class T>
    static FC_INLINE void taps(const Vec<T> (&m)[Alpha], Vec<T> (&g)[R]) {
        Vec<T> part[2][kPairs];  // even, odd
#pragma GCC unroll 3
        for (int i = 0; i < kPairs; ++i) {
            part[0][i] = times(k.scale[i], m[2 * i + 1] + m[2 * i + 2]);
            part[1][i] = times(k.scale[i] * k.power[i][1], m[2 * i + 1] - m[2 * i + 2]);
        }
        g[0] = plus(sum(part[0]), k.scale_0, m[0]);
        g[1] = sum(part[1]);
#pragma GCC unroll 5
        for (int r = 2; r < R; ++r) g[r] = weighted(part[r % 2], r - r % 2);
        g[R - 1] = g[R - 1] + m[Alpha - 1];
    }

private:
    template <int Pairs, class T>
    static FC_INLINE Vec<T> sum(const Vec<T> (&part)[Pairs]) {
        Vec<T> total = part[0];
#pragma GCC unroll 3
        for (int i = 1; i < Pairs; ++i) total = total + part[i];
        return total;
    }
    /// The sum of p^exponent part.
    template <int Pairs, class T>
    static FC_INLINE Vec<T> weighted(const Vec<T> (&part)[Pairs], int exponent) {
        Vec<T> total = times(k.power[0][exponent], part[0]);
#pragma GCC unroll 3
        for (int i = 1; i < Pairs; ++i) total = plus(total, k.power[i][exponent], part[i]);
        return total;
    }
};

}  // namespace

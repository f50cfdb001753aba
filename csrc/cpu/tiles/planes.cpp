// Register tiles along rows of planes (contract: cpu/kernels_planes.h).
//
// forward, AVX-512: 8 filters x 2 = 16 sums + 2 of x + 1 broadcast = 19 of 32 registers; a tap loads
// 2 + 8 for 16 multiply-adds. AVX2: 8 x 2 do not fit into 16 registers and spill; 6 x 2 + 3 = 15 do.
// sums: 3 filters x 5 taps = 15 sums + 5 of x + 1 of grad = 21; 8 loads for 15 multiply-adds.
#include "cpu/kernels_planes.h"
#include "cpu/tiles/line.h"

namespace {

using fastconv::cpu::PlanesForward;
using fastconv::cpu::PlanesKernels;
using fastconv::cpu::PlanesSums;

template <class T, int Filters>
void forward(const PlanesForward<T>& tile) {
    constexpr int kLanes = Vec<T>::kLanes;
    Vec<T> low[Filters], high[Filters];
#pragma GCC unroll 8
    for (int k = 0; k < Filters; ++k) low[k] = high[k] = Vec<T>::zero();
    const T* weight = tile.weights;
    for (std::int64_t c = 0; c < tile.channels; ++c)
        for (std::int64_t r = 0; r < tile.taps_h; ++r) {
            const T* x = tile.x + c * tile.plane_elems + r * tile.row_elems;
            for (std::int64_t s = 0; s < tile.taps_w; ++s, x += tile.tap_elems, weight += Filters) {
                const Vec<T> a = Vec<T>::load(x), b = Vec<T>::load(x + kLanes);
#pragma GCC unroll 8
                for (int k = 0; k < Filters; ++k) {
                    const Vec<T> w = Vec<T>::broadcast(weight[k]);
                    low[k] = fma(w, a, low[k]);
                    high[k] = fma(w, b, high[k]);
                }
            }
        }
    T* out = tile.out;
#pragma GCC unroll 8
    for (int k = 0; k < Filters; ++k, out += tile.out_plane_elems) {
        if (tile.bias) {
            low[k] = low[k] + Vec<T>::broadcast(tile.bias[k]);
            high[k] = high[k] + Vec<T>::broadcast(tile.bias[k]);
        }
        if (tile.relu) {
            low[k] = max(Vec<T>::zero(), low[k]);
            high[k] = max(Vec<T>::zero(), high[k]);
        }
        low[k].store(out);
        high[k].store(out + kLanes);
    }
}

template <class T, int Filters, int Taps>
void sums(const PlanesSums<T>& tile) {
    constexpr int kLanes = Vec<T>::kLanes;
    Vec<T> acc[Filters][Taps];
#pragma GCC unroll 3
    for (int k = 0; k < Filters; ++k)
#pragma GCC unroll 5
        for (int s = 0; s < Taps; ++s) acc[k][s] = Vec<T>::zero();
    for (std::int64_t p = 0; p < tile.rows; ++p) {
        const T* row = tile.x + p * tile.x_row_elems;
        const T* grad = tile.grad + p * tile.grad_row_elems;
        for_vectors<T>(tile.cols, [&](std::int64_t q, int count) {
            Vec<T> x[Taps];
#pragma GCC unroll 5
            for (int s = 0; s < Taps; ++s) x[s] = load_some(row + q + s * tile.tap_elems, count);
#pragma GCC unroll 3
            for (int k = 0; k < Filters; ++k) {
                const Vec<T> g = load_some(grad + k * tile.grad_plane_elems + q, count);
#pragma GCC unroll 5
                for (int s = 0; s < Taps; ++s) acc[k][s] = fma(g, x[s], acc[k][s]);
            }
        });
    }
#pragma GCC unroll 3
    for (int k = 0; k < Filters; ++k)
#pragma GCC unroll 5
        for (int s = 0; s < Taps; ++s) {
            T* sum = tile.sums + k * tile.filter_elems + s * kLanes;
            (Vec<T>::load(sum) + acc[k][s]).store(sum);
        }
}

template <class T, int Filters>
constexpr void add_forward(PlanesKernels<T>& kernels) {
    if constexpr (Filters >= PlanesKernels<T>::kFewestFilters) {
        kernels.forward[Filters] = forward<T, Filters>;
        add_forward<T, Filters - 1>(kernels);
    }
}

template <class T, int Filters, int Taps>
constexpr void add_sums(PlanesKernels<T>& kernels) {
    if constexpr (Taps > 0) {
        kernels.sums[Filters][Taps] = sums<T, Filters, Taps>;
        add_sums<T, Filters, Taps - 1>(kernels);
    }
}

template <class T>
constexpr PlanesKernels<T> table() {
    PlanesKernels<T> kernels{};
    kernels.lanes = Vec<T>::kLanes;
    add_forward<T, PlanesKernels<T>::kMostFilters>(kernels);
    add_sums<T, 1, PlanesKernels<T>::kTaps>(kernels);
    add_sums<T, 2, PlanesKernels<T>::kTaps>(kernels);
    add_sums<T, 3, PlanesKernels<T>::kTaps>(kernels);
    return kernels;
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const PlanesKernels<float> planes_f32 = table<float>();
extern const PlanesKernels<double> planes_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA

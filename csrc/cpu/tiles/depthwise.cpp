// Depthwise convolution, vectors along channels (contract and picture: cpu/kernels_depthwise.h):
//   out[t][j][c] = relu?( sum over taps a, b of lines[t * step + a][(j * step + b * tap_step)][c] *
//                         weights[a][b][c] + bias[c] + residual[t][j][c] )
//
// Fixed tiles, float32: 2 rows x 4 columns of outputs share their loads: 3x3 with stride 1 loads 24
// source vectors and 9 of weights for 72 FMAs (8 sums + 9 weights + 1 source = 18 of 32 zmm; on AVX2
// weights come from L1 as memory operands). Loads count twice here: a vector of a pixel seldom begins
// at a cache line. So 7x7 has a tile too (1.7 times the general one's speed): any other kernel takes
// 8 columns of one row, 9 loads for 8 FMAs. oneDNN and XNNPACK keep 4 to 6 outputs of one row.
#include "cpu/kernels_depthwise.h"
#include "cpu/tiles/vector.h"

// Blocks are inlined into one function for each shape, so that each has the registers for itself.
#define FC_ALWAYS_INLINE __attribute__((always_inline))
#define FC_APART __attribute__((noinline))

namespace {

using fastconv::cpu::DepthwiseGradTile;
using fastconv::cpu::DepthwiseKernels;
using fastconv::cpu::DepthwiseTile;

// Terms one accumulator takes; kernels of more taps add blocks of kTermsPerSum.
constexpr std::int64_t kMostTerms = 768;
constexpr std::int64_t kTermsPerSum = 512;

/// A vector of channels, whole or the first `lanes` of it.
template <class T, bool Whole>
struct Lanes {
    int count;
    FC_INLINE Vec<T> load(const T* p) const {
        if constexpr (Whole) return Vec<T>::load(p);
        else return Vec<T>::load(p, count);
    }
    FC_INLINE void store(Vec<T> v, T* p) const {
        if constexpr (Whole) v.store(p);
        else v.store(p, count);
    }
};

/// Calls body(c, Lanes) for the vectors of `channels` channels.
template <class T, class Body>
FC_INLINE void for_vectors(std::int64_t channels, Body&& body) {
    std::int64_t c = 0;
    for (; c + Vec<T>::kLanes <= channels; c += Vec<T>::kLanes) body(c, Lanes<T, true>{0});
    if (const int left = lanes_left<T>(channels, c)) body(c, Lanes<T, false>{left});
}

template <class T, int Columns, class L>
FC_INLINE void finish(const DepthwiseTile<T>& tile, int row, std::int64_t j, std::int64_t c,
                      L lanes, const Vec<T>* acc) {
    const Vec<T> bias = tile.bias ? lanes.load(tile.bias + c) : Vec<T>::zero();
    const T* residual = tile.residual[row];
#pragma GCC unroll 8
    for (int q = 0; q < Columns; ++q) {
        Vec<T> y = tile.bias ? acc[q] + bias : acc[q];
        if (residual) y = y + lanes.load(residual + (j + q) * tile.residual_pitch + c);
        if (tile.relu) y = max(Vec<T>::zero(), y);
        lanes.store(y, tile.out[row] + (j + q) * tile.out_pitch + c);
    }
}

// ---- fixed kernels -------------------------------------------------------------------------------

template <class T, int Kernel, int Step, int Rows, int Columns, class L>
FC_INLINE void fixed_block(const DepthwiseTile<T>& tile, std::int64_t j, std::int64_t c, L lanes) {
    constexpr int kLines = (Rows - 1) * Step + Kernel;
    constexpr int kSources = (Columns - 1) * Step + Kernel;
    constexpr int kTaps = Kernel * Kernel;
    const T* weights = tile.weights + c * kTaps;  // c / kLanes vectors of kTaps * kLanes
    Vec<T> acc[Rows][Columns];
#pragma GCC unroll 2
    for (int t = 0; t < Rows; ++t)
#pragma GCC unroll 8
        for (int q = 0; q < Columns; ++q) acc[t][q] = Vec<T>::zero();
#pragma GCC unroll 8
    for (int i = 0; i < kLines; ++i) {
        const std::int64_t pitch = tile.pitches[i];
        const T* line = tile.lines[i] + j * Step * pitch + c;
#pragma GCC unroll 16
        for (int x = 0; x < kSources; ++x, line += pitch) {
            const Vec<T> source = lanes.load(line);
#pragma GCC unroll 2
            for (int t = 0; t < Rows; ++t) {
                const int a = i - t * Step;
                if (a < 0 || a >= Kernel) continue;
#pragma GCC unroll 8
                for (int q = 0; q < Columns; ++q) {
                    const int b = x - q * Step;
                    if (b < 0 || b >= Kernel) continue;
                    const Vec<T> weight =
                        Vec<T>::load(weights + (a * Kernel + b) * Vec<T>::kLanes);
                    acc[t][q] = fma(source, weight, acc[t][q]);
                }
            }
        }
    }
#pragma GCC unroll 2
    for (int t = 0; t < Rows; ++t) finish<T, Columns>(tile, t, j, c, lanes, acc[t]);
}

template <class T, int Kernel, int Step, int Rows, int Columns>
FC_APART void fixed_columns(const DepthwiseTile<T>& tile, std::int64_t& j) {
    for (; j + Columns <= tile.columns; j += Columns)
        for_vectors<T>(tile.channels, [&](std::int64_t c, auto lanes) FC_ALWAYS_INLINE {
            fixed_block<T, Kernel, Step, Rows, Columns>(tile, j, c, lanes);
        });
}

template <class T, int Kernel, int Step, int Rows>
void fixed_tile(const DepthwiseTile<T>& tile) {
    std::int64_t j = 0;
    fixed_columns<T, Kernel, Step, Rows, 4>(tile, j);
    fixed_columns<T, Kernel, Step, Rows, 2>(tile, j);
    fixed_columns<T, Kernel, Step, Rows, 1>(tile, j);
}

// ---- any kernel ----------------------------------------------------------------------------------

template <class T, int Columns, class L>
FC_INLINE void any_block(const DepthwiseTile<T>& tile, std::int64_t j, std::int64_t c, L lanes) {
    const std::int64_t taps = tile.taps_h * tile.taps_w;
    const T* weights = tile.weights + c * taps;
    Vec<T> acc[Columns], total[Columns];
#pragma GCC unroll 8
    for (int q = 0; q < Columns; ++q) acc[q] = total[q] = Vec<T>::zero();
    std::int64_t left = taps > kMostTerms ? kTermsPerSum : taps + 1;
    for (std::int64_t a = 0; a < tile.taps_h; ++a) {
        const std::int64_t pitch = tile.pitches[a];
        const std::int64_t next = tile.step * pitch, next_tap = tile.tap_step * pitch;
        const T* line = tile.lines[a] + j * next + c;
        for (std::int64_t b = 0; b < tile.taps_w; ++b) {
            const Vec<T> weight = Vec<T>::load(weights);
#pragma GCC unroll 8
            for (int q = 0; q < Columns; ++q)
                acc[q] = fma(lanes.load(line + q * next), weight, acc[q]);
            weights += Vec<T>::kLanes;
            line += next_tap;
            if (--left == 0) {
                left = kTermsPerSum;
#pragma GCC unroll 8
                for (int q = 0; q < Columns; ++q) {
                    total[q] = total[q] + acc[q];
                    acc[q] = Vec<T>::zero();
                }
            }
        }
    }
    if (taps > kMostTerms) {
#pragma GCC unroll 8
        for (int q = 0; q < Columns; ++q) acc[q] = total[q] + acc[q];
    }
    finish<T, Columns>(tile, 0, j, c, lanes, acc);
}

template <class T, int Columns>
FC_APART void any_columns(const DepthwiseTile<T>& tile, std::int64_t& j) {
    for (; j + Columns <= tile.columns; j += Columns)
        for_vectors<T>(tile.channels, [&](std::int64_t c, auto lanes) FC_ALWAYS_INLINE {
            any_block<T, Columns>(tile, j, c, lanes);
        });
}

template <class T>
void any_tile(const DepthwiseTile<T>& tile) {
    std::int64_t j = 0;
    any_columns<T, 8>(tile, j);
    any_columns<T, 4>(tile, j);
    any_columns<T, 2>(tile, j);
    any_columns<T, 1>(tile, j);
}

// ---- gradient of the weight ----------------------------------------------------------------------

// Kernel rows a .. a + Lines - 1, taps b .. b + Taps - 1: Lines * Taps sums stay in registers.
template <class T, int Lines, int Taps, class L>
FC_APART void grad_block(const DepthwiseGradTile<T>& tile, std::int64_t a, std::int64_t b,
                          std::int64_t c, L lanes) {
    Vec<T> acc[Lines][Taps];
#pragma GCC unroll 3
    for (int i = 0; i < Lines; ++i)
#pragma GCC unroll 5
        for (int t = 0; t < Taps; ++t) acc[i][t] = Vec<T>::zero();
    const std::int64_t next = tile.step_w * tile.source_pitch;
    const std::int64_t next_tap = tile.tap_step_w * tile.source_pitch;
    const std::int64_t next_line = tile.tap_step_h * tile.source_line;
    for (std::int64_t p = 0; p < tile.rows; ++p) {
        const T* grad = tile.grad + p * tile.grad_line + c;
        const T* source = tile.source + b * next_tap + c +
                          (p * tile.step_h + a * tile.tap_step_h) * tile.source_line;
        for (std::int64_t q = 0; q < tile.columns; ++q) {
            const Vec<T> g = lanes.load(grad);
#pragma GCC unroll 3
            for (int i = 0; i < Lines; ++i)
#pragma GCC unroll 5
                for (int t = 0; t < Taps; ++t)
                    acc[i][t] = fma(lanes.load(source + i * next_line + t * next_tap), g,
                                    acc[i][t]);
            grad += tile.grad_pitch;
            source += next;
        }
    }
    T* sum = tile.sum + c * tile.taps_h * tile.taps_w + (a * tile.taps_w + b) * Vec<T>::kLanes;
#pragma GCC unroll 3
    for (int i = 0; i < Lines; ++i)
#pragma GCC unroll 5
        for (int t = 0; t < Taps; ++t) {
            T* place = sum + (i * tile.taps_w + t) * Vec<T>::kLanes;
            (Vec<T>::load(place) + acc[i][t]).store(place);
        }
}

template <class T, int Lines, class L>
FC_INLINE void grad_lines(const DepthwiseGradTile<T>& tile, std::int64_t a, std::int64_t c, L lanes) {
    std::int64_t pieces = (tile.taps_w + 4) / 5;  // 7 taps are 4 + 3: no lone sums
    for (std::int64_t b = 0; pieces > 0; --pieces) {
        const std::int64_t taps = (tile.taps_w - b + pieces - 1) / pieces;
        switch (taps) {
            case 5: grad_block<T, Lines, 5>(tile, a, b, c, lanes); break;
            case 4: grad_block<T, Lines, 4>(tile, a, b, c, lanes); break;
            case 3: grad_block<T, Lines, 3>(tile, a, b, c, lanes); break;
            case 2: grad_block<T, Lines, 2>(tile, a, b, c, lanes); break;
            default: grad_block<T, Lines, 1>(tile, a, b, c, lanes);
        }
        b += taps;
    }
}

template <class T>
void grad_any(const DepthwiseGradTile<T>& tile) {
    for_vectors<T>(tile.channels, [&](std::int64_t c, auto lanes) FC_ALWAYS_INLINE {
        std::int64_t a = 0;
        for (; a + 2 <= tile.taps_h; a += 2) grad_lines<T, 2>(tile, a, c, lanes);
        if (a < tile.taps_h) grad_lines<T, 1>(tile, a, c, lanes);
    });
}

template <class T>
void grad_3x3(const DepthwiseGradTile<T>& tile) {
    for_vectors<T>(tile.channels, [&](std::int64_t c, auto lanes) FC_ALWAYS_INLINE {
        grad_block<T, 3, 3>(tile, 0, 0, c, lanes);
    });
}

template <class T>
constexpr DepthwiseKernels<T> table() {
    DepthwiseKernels<T> kernels{};
    kernels.lanes = Vec<T>::kLanes;
    kernels.any = any_tile<T>;
    kernels.grad_any = grad_any<T>;
    kernels.grad_3x3 = grad_3x3<T>;
    if constexpr (sizeof(T) == 4) {  // float64 verifies, it does not race
        kernels.fixed[0][0][0] = fixed_tile<T, 3, 1, 1>;
        kernels.fixed[0][0][1] = fixed_tile<T, 3, 1, 2>;
        kernels.fixed[0][1][0] = fixed_tile<T, 3, 2, 1>;
        kernels.fixed[0][1][1] = fixed_tile<T, 3, 2, 2>;
        kernels.fixed[1][0][0] = fixed_tile<T, 5, 1, 1>;
        kernels.fixed[1][0][1] = fixed_tile<T, 5, 1, 2>;
        kernels.fixed[1][1][0] = fixed_tile<T, 5, 2, 1>;
        kernels.fixed[1][1][1] = fixed_tile<T, 5, 2, 2>;
        kernels.fixed[2][0][0] = fixed_tile<T, 7, 1, 1>;
        kernels.fixed[2][0][1] = fixed_tile<T, 7, 1, 2>;
    }
    return kernels;
}

}  // namespace

namespace fastconv::cpu::FC_ISA {
extern const DepthwiseKernels<float> depthwise_f32 = table<float>();
extern const DepthwiseKernels<double> depthwise_f64 = table<double>();
}  // namespace fastconv::cpu::FC_ISA

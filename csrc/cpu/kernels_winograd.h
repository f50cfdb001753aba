// The transforms of Winograd's minimal filtering F(m, r): m x m outputs of an r x r kernel from a tile
// of alpha x alpha inputs, alpha = m + r - 1, with alpha^2 products instead of m^2 r^2:
//
//     y = A^T [ (G g G^T) * (B^T d B) ] A          summed over channels between the brackets
//
//   input   d: alpha x alpha pixels, channels last  ->  V[point][tile][c]
//   weight  g: r x r taps of packed panels          ->  U[point][c][k]
//   output  M[point][tile][k] = sum_c V U           ->  m x m pixels, + bias, + residual, ReLU
//   pooled  the same                                ->  m/2 x m/2 maxima of 2x2 of those pixels
//
// and of its transpose, the gradient of the weights, summed over tiles between the brackets:
//
//     dg = G^T [ (B^T d B) * (A dy A^T) ] G
//
//   gradient  dy: m x m pixels of grad_output  ->  W[point][panel][tile][k in panel]
//   taps      M[point][c][k] = sum_tile V W    ->  r x r taps
//
// point = alpha * row + column. Each call handles one tile (or one channel of a panel) and all its
// channels (or columns), a vector at a time.
//
// The last tiles of a line or column have fewer outputs where m does not divide the image: h x w of them take
// (h + r - 1) (w + r - 1) points, those that WinogradVariant::uses says; F(4,3) on 14x14 484 instead of 576.
#pragma once

#include <cstdint>

namespace fastconv::cpu {

constexpr int kMostWinogradAlpha = 8;
constexpr int kMostWinogradTile = 6;  // m

template <class T>
struct WinogradInput {
    const T* pixels[kMostWinogradAlpha * kMostWinogradAlpha];  // lines of zeros outside the image
    std::int64_t first = 0, channels = 0;  // of each pixel
    T* points = nullptr;  // V[0][tile]; channels are padded with zeros to whole vectors
    std::int64_t point_elems = 0;
};

template <class T>
struct WinogradWeight {
    const T* taps = nullptr;  // (tap, c, width) at one c
    std::int64_t tap_elems = 0;
    int vectors = 0;  // of the panel's width
    T* points = nullptr;
    std::int64_t point_elems = 0;
};

template <class T>
struct WinogradOutput {
    const T* points = nullptr;  // M[0][tile]
    std::int64_t point_elems = 0;
    T* pixels[kMostWinogradTile * kMostWinogradTile];  // (m, m) or (m/2, m/2); null outside the output
    const T* residual[kMostWinogradTile * kMostWinogradTile];  // (m, m), where pixels are, or all null
    const T* bias = nullptr;  // (cols) or null
    std::int64_t cols = 0;
    bool relu = false;
};

template <class T>
struct WinogradGradient {
    const T* pixels[kMostWinogradTile * kMostWinogradTile];  // lines of zeros outside the image
    std::int64_t cols = 0;
    std::int64_t width = 0;  // of a panel, whole vectors
    T* points = nullptr;     // W[0][0][tile]; columns are padded with zeros to whole vectors
    std::int64_t point_elems = 0, panel_elems = 0;
};

template <class T>
struct WinogradTaps {
    const T* points = nullptr;  // M[0][c] of a panel
    std::int64_t point_elems = 0;
    int vectors = 0;    // of the panel's width
    T* taps = nullptr;  // (tap, k) at one c
    std::int64_t tap_elems = 0;
};

/// Functions for tiles of several sizes, at [height][width].
template <class Tile>
struct WinogradSizes {
    void (*of[kMostWinogradAlpha + 1][kMostWinogradAlpha + 1])(const Tile&) = {};
};

template <class T>
struct WinogradVariant {
    int m;
    int r;
    WinogradSizes<WinogradInput<T>> input;  // by points
    void (*weight)(const WinogradWeight<T>&);
    WinogradSizes<WinogradOutput<T>> output;  // by outputs
    WinogradSizes<WinogradOutput<T>> pooled;  // of an odd size the last row or column is in no window
    void (*gradient)(const WinogradGradient<T>&);
    void (*taps)(const WinogradTaps<T>&);
    bool (*uses)(int points, int point);  // along an axis: whether so many are taken with `point` among them

    int alpha() const { return m + r - 1; }
    int points() const { return alpha() * alpha(); }
    bool trims() const { return output.of[1][1] != nullptr; }  // else all tiles are whole ones
    bool pools() const { return pooled.of[m][m] != nullptr; }
};

template <class T>
struct WinogradKernels {
    static constexpr int kVariants = 6;
    WinogradVariant<T> variants[kVariants];
};

}  // namespace fastconv::cpu

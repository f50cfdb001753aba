// Packing weights for the implicit GEMM:
//   packed[group][panel][tap][c][k in panel] = weight[group][tap][c][first column + k]
// Columns beyond the last are zero, so that a tile may always load whole vectors.
//
// The bytes are read and written once; the transpose goes through registers wherever one of the
// weight's own strides is 1 (kernels_copy.h).
#include <algorithm>

#include "core/parallel.h"
#include "cpu/correlation.h"
#include "cpu/correlation_split.h"
#include "cpu/kernels_copy.h"
#include "cpu/panels.h"

namespace fastconv::cpu {
namespace {

// Below this, handing out tasks costs more than it saves (about 10 us of copying).
constexpr std::int64_t kElementsWorthThreads = 1 << 15;
constexpr std::int64_t kChannelsPerTask = 64;
constexpr std::int64_t kMaxStagingBytes = 1 << 20;
constexpr std::int64_t kCachedStagingBytes = 64 << 10;  // of several channels

/// How the taps of weights in C order, which are contiguous, are brought apart.
struct Staging {
    std::int64_t span = 0;      // elements up to the last tap; 0: the transpose needs no staging
    std::int64_t together = 1;  // channels at once
};

template <class T>
Staging staging_of(const Correlation& phase, std::int64_t width, const WeightView<T>& weight) {
    const std::int64_t kernel_w =
        std::max(phase.taps_w.kernel,
                 phase.taps_w.kernel + (phase.taps_w.count - 1) * phase.taps_w.kernel_step) + 1;
    const std::int64_t kernel_h =
        std::max(phase.taps_h.kernel,
                 phase.taps_h.kernel + (phase.taps_h.count - 1) * phase.taps_h.kernel_step);
    const std::int64_t span = kernel_h * weight.row_elems + kernel_w;
    const std::int64_t bytes = span * width * static_cast<std::int64_t>(sizeof(T));
    if (weight.channel_elems == 1 || weight.col_elems == 1 || weight.tap_elems != 1 ||
        weight.row_elems < kernel_w || span <= 1 || bytes > kMaxStagingBytes ||
        span > 2 * phase.taps_h.count * phase.taps_w.count)
        return {};
    constexpr std::int64_t kBlock = 8;  // channels
    return {span, bytes * kBlock <= kCachedStagingBytes ? kBlock : 1};
}

std::int64_t kernel_row(const Correlation& phase, std::int64_t a) {
    return phase.taps_h.kernel + a * phase.taps_h.kernel_step;
}
std::int64_t kernel_col(const Correlation& phase, std::int64_t b) {
    return phase.taps_w.kernel + b * phase.taps_w.kernel_step;
}

/// Where a tap of the phase lies in a filter.
template <class T>
std::int64_t tap_elem(const Correlation& phase, const WeightView<T>& weight, std::int64_t tap) {
    return kernel_row(phase, tap / phase.taps_w.count) * weight.row_elems +
           kernel_col(phase, tap % phase.taps_w.count) * weight.tap_elems;
}

template <class T>
struct PackTask {
    const Correlation& phase;
    const WeightView<T>& weight;
    const CopyKernels<T>& copy;
    const PanelPiece<T>& piece;
    const T* from;  // the piece's first column and channel, tap 0

    T* line(std::int64_t tap, std::int64_t c) const {  // (tap, c, 0 .. width)
        return piece.to + tap * piece.tap_elems + c * piece.width;
    }

    void zero_padding() const {
        if (piece.cols == piece.width) return;
        for (std::int64_t tap = 0; tap < piece.taps; ++tap)
            for (std::int64_t c = 0; c < piece.channels; ++c)
                std::fill(line(tap, c) + piece.cols, line(tap, c) + piece.width, T(0));
    }

    void by_tap() const {
        for (std::int64_t tap = 0; tap < piece.taps; ++tap)
            copy.copy(piece.channels, piece.cols,
                      {from + tap_elem(phase, weight, piece.tap + tap), weight.channel_elems,
                       weight.col_elems},
                      {line(tap, 0), piece.width, 1});
    }

    // Transposes (cols, taps) of some channels in registers, at once where channels follow each other
    // (nine taps alone fill two vectors badly), then puts the lines of a tap in their place.
    void through_staging(const Staging& staging, T* staged) const {
        const std::int64_t taps = staging.span, width = piece.width, together = staging.together;
        const std::int64_t run = weight.channel_elems == taps ? together : 1;
        for (std::int64_t c = 0; c < piece.channels; c += together) {
            const std::int64_t some = std::min(together, piece.channels - c);
            for (std::int64_t i = 0; i < some; i += run)
                copy.copy(piece.cols, std::min(run, some) * taps,
                          {from + (c + i) * weight.channel_elems, weight.col_elems, 1},
                          {staged + i * taps * width, 1, width});
            for (std::int64_t a = 0; a < phase.taps_h.count; ++a)
                for (std::int64_t b = 0; b < phase.taps_w.count; ++b) {
                    const std::int64_t tap =
                        kernel_row(phase, a) * weight.row_elems + kernel_col(phase, b);
                    copy.copy(some, piece.cols, {staged + tap * width, taps * width, 1},
                              {line(a * phase.taps_w.count + b, c), width, 1});
                }
        }
    }
};

}  // namespace

template <class T>
std::int64_t packed_elems(const Correlation& phase, const Kernels<T>& kernels) {
    if (phase.split) return split_packed_bytes(phase) / static_cast<std::int64_t>(sizeof(T));
    return phase.groups * phase.taps_h.count * phase.taps_w.count * phase.channels *
           Panels<T>(*kernels.gemm, phase.cols).padded_cols;
}

template <class T>
std::int64_t pack_staging_elems(const Correlation& phase, const Kernels<T>& kernels,
                                const WeightView<T>& weight) {
    const std::int64_t width = widest_panel(*kernels.gemm);
    const Staging staging = staging_of(phase, width, weight);
    return staging.span * staging.together * width;
}

template <class T>
void pack_panel(const Correlation& phase, const Kernels<T>& kernels, const WeightView<T>& weight,
                const PanelPiece<T>& piece, T* staged) {
    PanelPiece<T> whole = piece;
    if (piece.taps == 0) whole.taps = phase.taps_h.count * phase.taps_w.count;
    const PackTask<T> pack{phase, weight, *kernels.copy, whole,
                           weight.data + piece.group * weight.group_elems +
                               piece.col * weight.col_elems + piece.channel * weight.channel_elems};
    pack.zero_padding();
    const Staging staging = staging_of(phase, widest_panel(*kernels.gemm), weight);
    if (staging.span != 0 && staged) pack.through_staging(staging, staged);
    else pack.by_tap();
}

template <class T>
void pack_lines(const Correlation& phase, const Kernels<T>& kernels, const WeightView<T>& weight,
                PanelPiece<T> piece, std::int64_t first, std::int64_t lines) {
    piece.taps = 1;
    for (std::int64_t line = first; line < first + lines; line += piece.channels) {
        piece.tap = line / phase.channels;
        piece.channel = line % phase.channels;
        piece.channels = std::min(phase.channels - piece.channel, first + lines - line);
        pack_panel<T>(phase, kernels, weight, piece, nullptr);
        piece.to += piece.channels * piece.width;
    }
}

template <class T>
void pack_correlation(const Correlation& phase, const Kernels<T>& kernels,
                      const WeightView<T>& weight, T* packed, int threads) {
    if constexpr (sizeof(T) == 4)
        if (phase.split)
            return pack_split(phase, kernels, weight, reinterpret_cast<char*>(packed), threads);
    const Panels<T> panels(*kernels.gemm, phase.cols);
    const std::int64_t depth = phase.taps_h.count * phase.taps_w.count * phase.channels;
    if (depth == 0 || panels.count == 0) return;
    const std::int64_t chunks = (phase.channels + kChannelsPerTask - 1) / kChannelsPerTask;
    const bool small = phase.groups * depth * panels.padded_cols < kElementsWorthThreads;
    const std::size_t staging =
        static_cast<std::size_t>(pack_staging_elems(phase, kernels, weight)) * sizeof(T);

    parallel_for(phase.groups * panels.count * chunks, small ? 1 : threads, FloatMode::kIeee,
                 [&](std::int64_t task, int) {
        PanelPiece<T> piece;
        piece.channel = task % chunks * kChannelsPerTask;
        piece.channels = std::min(kChannelsPerTask, phase.channels - piece.channel);
        const std::int64_t panel = task / chunks % panels.count;
        piece.group = task / chunks / panels.count;
        piece.col = panels.first_col(panel);
        piece.cols = panels.panel_cols(panel);
        piece.width = panels.panel_width(panel, kernels.gemm->lanes);
        piece.to = packed + (piece.group * panels.padded_cols + piece.col) * depth +
                   piece.channel * piece.width;
        piece.tap_elems = phase.channels * piece.width;
        pack_panel(phase, kernels, weight, piece, static_cast<T*>(thread_scratch(staging)));
    });
}

namespace {

// Channels a power of two apart fall into few sets of L2: what is fetched for a panel is gone before it is
// packed. One thread, grad_input of 1x1 2048 -> 512 on 7x7: 752 us as it is, 816 with its weights fetched.
template <class T>
bool fall_into_few_sets(const WeightView<T>& weight, std::int64_t channels) {
    constexpr std::int64_t kWayBytes = 128 << 10, kMostLinesASet = 4;
    const std::int64_t step = weight.channel_elems * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t sets_apart = std::min(step & -step, kWayBytes);
    return channels * sets_apart > kMostLinesASet * kWayBytes;
}

}  // namespace

template <class T>
PieceLines<T> lines_of(const Correlation& phase, const WeightView<T>& weight,
                       const PanelPiece<T>& piece) {
    const std::int64_t tap = tap_elem(phase, weight, piece.tap);
    const std::int64_t taps = tap_elem(phase, weight, piece.tap + piece.taps - 1) - tap;
    const T* first = weight.data + piece.group * weight.group_elems + piece.col * weight.col_elems +
                     piece.channel * weight.channel_elems + tap;
    if (weight.col_elems == 1 && !fall_into_few_sets(weight, piece.channels))
        return {first, piece.cols, true, piece.cols, weight.channel_elems,
                piece.taps > 1 ? taps / (piece.taps - 1) : 0};
    if (weight.channel_elems == 1 && taps == (piece.taps - 1) * piece.channels)
        return {first, piece.cols, false, piece.taps * piece.channels, weight.col_elems, 0};
    return {};
}

#define FASTCONV_INSTANTIATE(T)                                                                    \
    template std::int64_t packed_elems(const Correlation&, const Kernels<T>&);                    \
    template std::int64_t pack_staging_elems(const Correlation&, const Kernels<T>&,               \
                                             const WeightView<T>&);                               \
    template void pack_panel(const Correlation&, const Kernels<T>&, const WeightView<T>&,         \
                             const PanelPiece<T>&, T*);                                           \
    template void pack_lines(const Correlation&, const Kernels<T>&, const WeightView<T>&,         \
                             PanelPiece<T>, std::int64_t, std::int64_t);                          \
    template PieceLines<T> lines_of(const Correlation&, const WeightView<T>&,                     \
                                    const PanelPiece<T>&);                                        \
    template void pack_correlation(const Correlation&, const Kernels<T>&, const WeightView<T>&,   \
                                   T*, int)
FASTCONV_INSTANTIATE(float);
FASTCONV_INSTANTIATE(double);
#undef FASTCONV_INSTANTIATE

}  // namespace fastconv::cpu

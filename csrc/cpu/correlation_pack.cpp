// Packing weights for the implicit GEMM:
//   packed[group][panel][tap][c][k in panel] = weight[group][tap][c][first column + k]
// Columns beyond the last are zero, so that a tile may always load whole vectors.
//
// The bytes are read and written once; the transpose goes through registers wherever one of the
// weight's own strides is 1 (kernels_copy.h).
#include <algorithm>

#include "core/parallel.h"
#include "cpu/correlation.h"
#include "cpu/kernels_copy.h"
#include "cpu/panels.h"

namespace fastconv::cpu {
namespace {

// Below this, handing out tasks costs more than it saves (about 10 us of copying).
constexpr std::int64_t kElementsWorthThreads = 1 << 15;
constexpr std::int64_t kChannelsPerTask = 64;
constexpr std::size_t kMaxStagingBytes = std::size_t{1} << 20;
constexpr std::int64_t kCachedStagingBytes = 64 << 10;  // of several channels

template <class T>
struct PackTask {
    const Correlation& phase;
    const WeightView<T>& weight;
    const CopyKernels<T>& copy;
    std::int64_t width;  // of the panel
    std::int64_t cols;   // that exist in it
    std::int64_t channel, channels;
    const T* from;  // the panel's first column, channel 0, tap 0
    T* to;          // the panel

    T* line(std::int64_t tap, std::int64_t c) const {  // (tap, c, 0 .. width)
        return to + (tap * phase.channels + c) * width;
    }
    std::int64_t kernel_row(std::int64_t a) const {
        return phase.taps_h.kernel + a * phase.taps_h.kernel_step;
    }
    std::int64_t kernel_col(std::int64_t b) const {
        return phase.taps_w.kernel + b * phase.taps_w.kernel_step;
    }

    void zero_padding() const {
        if (cols == width) return;
        const std::int64_t taps = phase.taps_h.count * phase.taps_w.count;
        for (std::int64_t tap = 0; tap < taps; ++tap)
            for (std::int64_t c = channel; c < channel + channels; ++c)
                for (std::int64_t k = cols; k < width; ++k) line(tap, c)[k] = T(0);
    }

    void by_tap() const {
        for (std::int64_t a = 0; a < phase.taps_h.count; ++a)
            for (std::int64_t b = 0; b < phase.taps_w.count; ++b)
                copy.copy(channels, cols,
                          {from + kernel_row(a) * weight.row_elems +
                               kernel_col(b) * weight.tap_elems + channel * weight.channel_elems,
                           weight.channel_elems, weight.col_elems},
                          {line(a * phase.taps_w.count + b, channel), width, 1});
    }

    // Taps are the contiguous dimension (weights in C order): transpose (cols, taps) of `together`
    // channels in registers, at once where channels follow each other (nine taps alone leave one of them
    // to be copied element by element), then put the lines of a tap in their place.
    void through_staging(std::int64_t taps, std::int64_t together, T* staging) const {
        const std::int64_t run = weight.channel_elems == taps ? together : 1;
        for (std::int64_t c = channel; c < channel + channels; c += together) {
            const std::int64_t some = std::min(together, channel + channels - c);
            for (std::int64_t i = 0; i < some; i += run)
                copy.copy(cols, std::min(run, some) * taps,
                          {from + (c + i) * weight.channel_elems, weight.col_elems, 1},
                          {staging + i * taps * width, 1, width});
            for (std::int64_t a = 0; a < phase.taps_h.count; ++a)
                for (std::int64_t b = 0; b < phase.taps_w.count; ++b) {
                    const std::int64_t tap =
                        kernel_row(a) * weight.row_elems + kernel_col(b);
                    copy.copy(some, cols, {staging + tap * width, taps * width, 1},
                              {line(a * phase.taps_w.count + b, c), width, 1});
                }
        }
    }
};

}  // namespace

template <class T>
std::int64_t packed_elems(const Correlation& phase, const Kernels<T>& kernels) {
    return phase.groups * phase.taps_h.count * phase.taps_w.count * phase.channels *
           Panels<T>(*kernels.gemm, phase.cols).padded_cols;
}

template <class T>
void pack_correlation(const Correlation& phase, const Kernels<T>& kernels,
                      const WeightView<T>& weight, T* packed, int threads) {
    const Panels<T> panels(*kernels.gemm, phase.cols);
    const std::int64_t depth = phase.taps_h.count * phase.taps_w.count * phase.channels;
    if (depth == 0 || panels.count == 0) return;
    const std::int64_t chunks = (phase.channels + kChannelsPerTask - 1) / kChannelsPerTask;
    const bool small = phase.groups * depth * panels.padded_cols < kElementsWorthThreads;
    // Index of the last tap in the weight, if taps are contiguous there.
    const std::int64_t kernel_w =
        std::max(phase.taps_w.kernel,
                 phase.taps_w.kernel + (phase.taps_w.count - 1) * phase.taps_w.kernel_step) + 1;
    const std::int64_t kernel_h =
        std::max(phase.taps_h.kernel,
                 phase.taps_h.kernel + (phase.taps_h.count - 1) * phase.taps_h.kernel_step);
    const std::int64_t span = kernel_h * weight.row_elems + kernel_w;
    const bool stage = weight.channel_elems != 1 && weight.col_elems != 1 &&
                       weight.tap_elems == 1 && weight.row_elems >= kernel_w && span > 1 &&
                       span * panels.width * sizeof(T) <= kMaxStagingBytes &&
                       span <= 2 * phase.taps_h.count * phase.taps_w.count;

    constexpr std::int64_t kBlock = 8;  // channels; of the transpose
    const std::int64_t staged = span * panels.width * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t together = staged * kBlock <= kCachedStagingBytes ? kBlock : 1;

    parallel_for(phase.groups * panels.count * chunks, small ? 1 : threads, FloatMode::kIeee,
                 [&](std::int64_t task, int) {
        const std::int64_t chunk = task % chunks;
        const std::int64_t panel = task / chunks % panels.count;
        const std::int64_t group = task / chunks / panels.count;
        const std::int64_t channel = chunk * kChannelsPerTask;
        const PackTask<T> pack{
            phase, weight, *kernels.copy, panels.panel_width(panel, kernels.gemm->lanes),
            panels.panel_cols(panel), channel, std::min(kChannelsPerTask, phase.channels - channel),
            weight.data + group * weight.group_elems + panels.first_col(panel) * weight.col_elems,
            packed + group * depth * panels.padded_cols + panels.first_col(panel) * depth};
        pack.zero_padding();
        if (stage) {
            T* staging = static_cast<T*>(thread_scratch(static_cast<std::size_t>(staged * together)));
            pack.through_staging(span, together, staging);
        } else {
            pack.by_tap();
        }
    });
}

template std::int64_t packed_elems(const Correlation&, const Kernels<float>&);
template std::int64_t packed_elems(const Correlation&, const Kernels<double>&);
template void pack_correlation(const Correlation&, const Kernels<float>&, const WeightView<float>&,
                               float*, int);
template void pack_correlation(const Correlation&, const Kernels<double>&,
                               const WeightView<double>&, double*, int);

}  // namespace fastconv::cpu

// A strip: a rectangle of a source image copied to scratch, channels last and zero-padded, for sources
// whose channels are strided and for kernels that want padding to be memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/plan.h"
#include "cpu/kernels_copy.h"

namespace fastconv::cpu {

/// Line u, column v of the strip is the source's pixel (first_y + u * pace_y, first_x + v * pace_x).
struct Strip {
    std::int64_t first_y = 0, first_x = 0;
    std::int64_t pace_y = 1, pace_x = 1;
    std::int64_t height = 0, width = 0;
    std::int64_t line_pixels = 0;  // from one line of the strip to the next, at least `width`
};

/// Elements of the strips of `images` images, or 2^40 where there would be more, which no scratch
/// memory holds. With strides of 1e9 the product itself leaves 64 bits.
inline std::int64_t strip_elems(std::int64_t images, std::int64_t height, std::int64_t width,
                                std::int64_t channels) {
    constexpr std::int64_t kMost = std::int64_t{1} << 40;
    const double elements = static_cast<double>(images) * static_cast<double>(height) *
                            static_cast<double>(width) * static_cast<double>(channels);
    return elements < static_cast<double>(kMost) ? images * height * width * channels : kMost;
}

/// strip[u][v][c] = the pixel's channel c, or zero outside of the image. `image` is the first pixel
/// of the image and group that the strip is cut from, and of the first of `channels`.
template <class T>
void fill_strip(const CopyKernels<T>& copy, const Correlation& phase, const T* image,
                const Strip& strip, std::int64_t channels, T* to) {
    // Columns [begin, end) lie inside the source.
    const std::int64_t before = strip.first_x < 0 ? -strip.first_x : 0;
    const std::int64_t inside = phase.source_w - strip.first_x;
    const std::int64_t begin =
        std::clamp<std::int64_t>((before + strip.pace_x - 1) / strip.pace_x, 0, strip.width);
    const std::int64_t end = std::clamp<std::int64_t>(
        inside > 0 ? (inside + strip.pace_x - 1) / strip.pace_x : 0, begin, strip.width);
    for (std::int64_t u = 0; u < strip.height; ++u) {
        T* line = to + u * strip.line_pixels * channels;
        const std::int64_t y = strip.first_y + u * strip.pace_y;
        if (y < 0 || y >= phase.source_h || begin == end) {
            std::fill_n(line, strip.width * channels, T(0));
            continue;
        }
        const T* pixel = image + y * phase.source.height_elems +
                         (strip.first_x + begin * strip.pace_x) * phase.source.width_elems;
        std::fill_n(line, begin * channels, T(0));
        const std::int64_t step = phase.source.width_elems * strip.pace_x;
        if (phase.source.channel_elems == 1 && step == channels)  // pixels without gaps: one line
            copy.copy(1, (end - begin) * channels, {pixel, 0, 1}, {line + begin * channels, 0, 1});
        else
            copy.copy(end - begin, channels, {pixel, step, phase.source.channel_elems},
                      {line + begin * channels, channels, 1});
        std::fill_n(line + end * channels, (strip.width - end) * channels, T(0));
    }
}

/// All channels of the group.
template <class T>
void fill_strip(const CopyKernels<T>& copy, const Correlation& phase, const T* image,
                const Strip& strip, T* to) {
    fill_strip(copy, phase, image, strip, phase.channels, to);
}

}  // namespace fastconv::cpu

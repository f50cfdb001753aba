// A strip: a rectangle of a source image copied to scratch, channels last and zero-padded, for sources
// whose channels are strided and for kernels that want padding to be memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

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

/// strip[u][v][y][x][c] = channel c of the pixel (first_y + u * pace_y + y, first_x + v * pace_x + x), or zero outside
/// of the image, for all y below pace_y and x below pace_x: what lies between two pixels become channels.
template <class T>
void fill_folded_strip(const CopyKernels<T>& copy, const Correlation& phase, const T* image,
                       const Strip& strip, T* to) {
    const std::int64_t channels = phase.channels, run = strip.pace_x * channels, pixel = strip.pace_y * run;
    const Strides& source = phase.source;
    // Columns [first, second) whose pixel x of a run lies inside the source.
    const auto inside = [&](std::int64_t x) {
        const std::int64_t before = -(strip.first_x + x), behind = phase.source_w + before;
        const std::int64_t begin = before > 0 ? (before + strip.pace_x - 1) / strip.pace_x : 0;
        const std::int64_t end = behind > 0 ? (behind + strip.pace_x - 1) / strip.pace_x : 0;
        return std::pair(std::min(begin, strip.width), std::clamp(end, std::min(begin, strip.width), strip.width));
    };
    // Whole runs, where they are one piece of memory.
    const bool dense = source.channel_elems == 1 && source.width_elems == channels;
    const std::int64_t whole = inside(0).first;
    const std::int64_t whole_end = dense ? std::max(whole, inside(strip.pace_x - 1).second) : whole;
    for (std::int64_t line = 0; line < strip.height * strip.pace_y; ++line) {
        T* first = to + line / strip.pace_y * strip.line_pixels * pixel + line % strip.pace_y * run;
        const std::int64_t y = strip.first_y + line;
        const auto clear = [&](std::int64_t begin, std::int64_t end, std::int64_t x, std::int64_t elems) {
            for (std::int64_t v = begin; v < end; ++v) std::fill_n(first + v * pixel + x * channels, elems, T(0));
        };
        if (y < 0 || y >= phase.source_h) {
            clear(0, strip.width, 0, run);
            continue;
        }
        const T* row = image + y * source.height_elems + strip.first_x * source.width_elems;
        const auto move = [&](std::int64_t begin, std::int64_t end, std::int64_t x, std::int64_t elems) {
            if (begin < end)
                copy.copy(end - begin, elems,
                          {row + (begin * strip.pace_x + x) * source.width_elems,
                           strip.pace_x * source.width_elems, source.channel_elems},
                          {first + begin * pixel + x * channels, pixel, 1});
        };
        move(whole, whole_end, 0, run);
        for (std::int64_t x = 0; x < strip.pace_x; ++x) {
            const auto [begin, end] = inside(x);
            clear(0, begin, x, channels);
            move(begin, std::min(whole, end), x, channels);
            move(std::max(whole_end, begin), end, x, channels);
            clear(end, strip.width, x, channels);
        }
    }
}

/// All channels of the group.
template <class T>
void fill_strip(const CopyKernels<T>& copy, const Correlation& phase, const T* image,
                const Strip& strip, T* to) {
    fill_strip(copy, phase, image, strip, phase.channels, to);
}

}  // namespace fastconv::cpu

// How Winograd's tiles lie in an image: a run of them as segments, and where a tile's pixels are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "core/plan.h"
#include "cpu/kernels_copy.h"
#include "cpu/strip.h"

namespace fastconv::cpu {

/// `elems` floats rounded up to an odd number of cache lines, so that a tile's points do not share sets
/// of L1.
inline std::int64_t odd_lines(std::int64_t elems) {
    constexpr std::int64_t kLine = 16;
    return ((elems + kLine - 1) / kLine | 1) * kLine;
}

/// Neighbouring tiles of one line of tiles.
struct TileSegment {
    std::int64_t image, tile_row, tile_col, tiles;
    std::int64_t first;  // index of its first tile in the run
    int height = 0, width = 0;  // outputs of each of its tiles, from a TileOrder
};

/// body(segment) for the `tiles` tiles from `begin` on, in row-major order through rows and images.
template <class Body>
void for_tile_segments(const WinogradPlan& plan, std::int64_t begin, std::int64_t tiles, Body&& body) {
    for (std::int64_t t = 0; t < tiles;) {
        const std::int64_t index = begin + t, within = index % plan.tiles();
        TileSegment segment{index / plan.tiles(), within / plan.tiles_w, within % plan.tiles_w, 0, t};
        segment.tiles = std::min(plan.tiles_w - segment.tile_col, tiles - t);
        body(segment);
        t += segment.tiles;
    }
}

/// Tiles of a run in the order right, inner, bottom, corner, so that those which have a point follow each other:
/// some points are not of the last column's tiles, some not of the last row's (cpu/kernels_winograd.h).
class TileOrder {
public:
    TileOrder(const WinogradPlan& plan, std::int64_t begin, std::int64_t tiles)
        : plan_(plan), begin_(begin), tiles_(tiles) {
        std::int64_t count[] = {0, tiles, 0, 0};
        if (!whole()) {
            count[kInner] = 0;
            walk([&count](const TileSegment& segment, int kind) { count[kind] += segment.tiles; });
        }
        for (int kind = 0; kind < 4; ++kind) first_[kind + 1] = first_[kind] + count[kind];
    }

    /// As for_tile_segments, but each segment's tiles are of one kind, and `first` counts in this order.
    template <class Body>
    void for_segments(Body&& body) const {
        std::int64_t next[] = {first_[0], first_[1], first_[2], first_[3]};
        walk([&](TileSegment segment, int kind) {
            segment.first = next[kind];
            segment.height = kind < kBottom ? plan_.m : plan_.last_h;
            segment.width = kind == kInner || kind == kBottom ? plan_.m : plan_.last_w;
            next[kind] += segment.tiles;
            body(segment);
        });
    }

    /// The tiles with a point that the last column's or row's tiles have or have not: from .first up to .second.
    std::pair<std::int64_t, std::int64_t> with_point(bool in_last_col, bool in_last_row) const {
        const int end = !in_last_row ? kBottom : !in_last_col ? kCorner : kCorner + 1;
        return {first_[in_last_col ? kRight : kInner], first_[end]};
    }

private:
    enum Kind { kRight, kInner, kBottom, kCorner };

    bool whole() const { return plan_.last_h == plan_.m && plan_.last_w == plan_.m; }

    template <class Body>
    void walk(Body&& body) const {
        for_tile_segments(plan_, begin_, tiles_, [&](TileSegment line) {
            const bool bottom = plan_.last_h < plan_.m && line.tile_row == plan_.tiles_h - 1;
            const bool to_the_edge = plan_.last_w < plan_.m && line.tile_col + line.tiles == plan_.tiles_w;
            TileSegment last = line;
            last.tile_col = plan_.tiles_w - 1;
            last.tiles = to_the_edge ? 1 : 0;
            line.tiles -= last.tiles;
            if (line.tiles > 0) body(line, bottom ? kBottom : kInner);
            if (last.tiles > 0) body(last, bottom ? kCorner : kRight);
        });
    }

    const WinogradPlan& plan_;
    std::int64_t begin_, tiles_;
    std::int64_t first_[5] = {};  // of each kind, and the number of all
};

/// Tiles of `side` x `side` pixels of a correlation's source, `step` apart, from the first tap's on or that
/// `down` and `right` of it: read in place, or, where the channels are strided, from a strip that the constructor
/// fills; folded, a pixel has the channels of all those up to the next tile pixel.
struct TilePixels {
    const Correlation& view;
    const float* image;  // its first pixel, at the first of `channels`
    std::int64_t channels;
    int side, step;
    std::int64_t pace_y, pace_x;  // of the source from a tile's pixel to the next: the stride
    std::int64_t first_y, first_x, tiles;
    float* strip;        // (side, tiles * step + side - step, channels)
    const float* zeros;  // (channels)

    TilePixels(const CopyKernels<float>& copy, const Correlation& correlation, const float* first,
               std::int64_t count, int tile_side, int tile_step, const TileSegment& segment,
               float* strip_memory, const float* zero_line, std::int64_t down = 0, std::int64_t right = 0,
               bool folded = false)
        : view(correlation), image(first + segment.image * correlation.source.batch_elems),
          channels(count), side(tile_side), step(tile_step), pace_y(view.taps_h.step),
          pace_x(view.taps_w.step), first_y(segment.tile_row * step * pace_y + view.taps_h.offset + down),
          first_x(segment.tile_col * step * pace_x + view.taps_w.offset + right), tiles(segment.tiles),
          strip(strip_memory), zeros(zero_line) {
        if (!view.gather) return;
        Strip cut;
        cut.first_y = first_y;
        cut.first_x = first_x;
        cut.pace_y = pace_y;
        cut.pace_x = pace_x;
        cut.height = side;
        cut.width = cut.line_pixels = line_pixels();
        if (folded) fill_folded_strip(copy, view, image, cut, strip);
        else fill_strip(copy, view, image, cut, channels, strip);
    }

    std::int64_t line_pixels() const { return tiles * step + side - step; }

    /// pixels[y * side + x] of tile t; outside of the image a line of zeros.
    void find(std::int64_t t, const float** pixels) const {
        const std::int64_t left = first_x + t * step * pace_x;
        const Strides& strides = view.source;
        const bool inside = first_y >= 0 && first_y + (side - 1) * pace_y < view.source_h && left >= 0 &&
                            left + (side - 1) * pace_x < view.source_w;
        if (view.gather)
            spread(strip + t * step * channels, line_pixels() * channels, channels, pixels);
        else if (inside)
            spread(image + first_y * strides.height_elems + left * strides.width_elems,
                   strides.height_elems * pace_y, strides.width_elems * pace_x, pixels);
        else
            clip(left, pixels);
    }

private:
    void spread(const float* first, std::int64_t row_elems, std::int64_t col_elems,
                const float** pixels) const {
        for (int y = 0; y < side; ++y)
            for (int x = 0; x < side; ++x)
                pixels[y * side + x] = first + y * row_elems + x * col_elems;
    }

    void clip(std::int64_t left, const float** pixels) const {
        for (int y = 0; y < side; ++y)
            for (int x = 0; x < side; ++x) {
                const std::int64_t row = first_y + y * pace_y, col = left + x * pace_x;
                const bool inside =
                    row >= 0 && row < view.source_h && col >= 0 && col < view.source_w;
                pixels[y * side + x] = inside ? image + row * view.source.height_elems +
                                                    col * view.source.width_elems
                                              : zeros;
            }
    }
};

}  // namespace fastconv::cpu

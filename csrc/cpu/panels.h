// How columns are cut into panels of the register tiles' widths.
#pragma once

#include <cstdint>

#include "cpu/kernels_gemm.h"

namespace fastconv::cpu {

/// The narrowest tile that holds `cols` columns, or the widest there is; in vectors. TileKernels is
/// any family with lanes, max_rows and kMaxVectors: GemmKernels, OuterKernels.
template <class TileKernels>
int vectors_for(const TileKernels& tiles, std::int64_t cols) {
    int vectors = 0;
    for (int wider = 1; wider <= TileKernels::kMaxVectors; ++wider) {
        if (tiles.max_rows[wider] == 0) continue;
        vectors = wider;
        if (wider * tiles.lanes >= cols) break;
    }
    return vectors;
}

/// Rows of the widest tile.
template <class TileKernels>
int widest_tile_rows(const TileKernels& tiles) {
    return tiles.max_rows[vectors_for(tiles, INT64_MAX)];
}

/// Vectors of a full panel: the widest tile's, but 144 columns are 48 + 48 + 48 rather than 64 + 64 + 16:
/// a tile of one vector broadcasts an element for every product.
template <class TileKernels>
int full_vectors(const TileKernels& tiles, std::int64_t cols) {
    const int widest = vectors_for(tiles, INT64_MAX);
    const auto left = [&](int vectors) { return cols % (std::int64_t{vectors} * tiles.lanes); };
    const auto wasteful = [&](int vectors) { return left(vectors) > 0 && left(vectors) <= tiles.lanes; };
    if (!TileKernels::kNarrowerPanels || cols < std::int64_t{widest} * tiles.lanes || !wasteful(widest))
        return widest;
    const int narrower = widest - 1;
    const bool usable = narrower > 1 && tiles.max_rows[narrower] > 0;
    return usable && !wasteful(narrower) ? narrower : widest;
}

template <class TileKernels>
std::int64_t widest_panel(const TileKernels& tiles) {
    return std::int64_t{vectors_for(tiles, INT64_MAX)} * tiles.lanes;
}

/// `cols` columns from `first` on as full panels of one width and one narrower panel for what is left.
template <class T>
struct Panels {
    std::int64_t first;
    std::int64_t cols;
    std::int64_t width;  // of a full panel
    std::int64_t count;
    int last_vectors;
    std::int64_t padded_cols;

    template <class TileKernels>
    Panels(const TileKernels& tiles, std::int64_t columns, std::int64_t first_column = 0)
        : first(first_column), cols(columns) {
        width = std::int64_t{full_vectors(tiles, columns)} * tiles.lanes;
        count = cols > 0 ? (cols + width - 1) / width : 0;
        last_vectors = vectors_for(tiles, count > 0 ? cols - (count - 1) * width : 1);
        padded_cols = count > 0 ? (count - 1) * width + std::int64_t{last_vectors} * tiles.lanes : 0;
    }

    /// One of `parts` nearly equal parts of all columns, cut between vectors.
    template <class TileKernels>
    static Panels of_part(const TileKernels& tiles, std::int64_t columns, std::int64_t part,
                          std::int64_t parts) {
        const std::int64_t vectors = (columns + tiles.lanes - 1) / tiles.lanes;
        const std::int64_t begin = vectors * part / parts * tiles.lanes;
        const std::int64_t end = vectors * (part + 1) / parts * tiles.lanes;
        return Panels(tiles, (end < columns ? end : columns) - begin, begin);
    }

    std::int64_t first_col(std::int64_t panel) const { return first + panel * width; }
    std::int64_t panel_width(std::int64_t panel, int lanes) const {
        return panel + 1 < count ? width : std::int64_t{last_vectors} * lanes;
    }
    std::int64_t panel_cols(std::int64_t panel) const {
        return panel + 1 < count ? width : cols - panel * width;
    }
};

}  // namespace fastconv::cpu

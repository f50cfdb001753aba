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

/// `cols` columns as full panels of the widest tile and one narrower panel for what is left.
template <class T>
struct Panels {
    std::int64_t cols;
    std::int64_t width;  // of a full panel
    std::int64_t count;
    int last_vectors;
    std::int64_t padded_cols;

    template <class TileKernels>
    Panels(const TileKernels& tiles, std::int64_t columns) : cols(columns) {
        const int widest = vectors_for(tiles, INT64_MAX);
        width = std::int64_t{widest} * tiles.lanes;
        count = cols > 0 ? (cols + width - 1) / width : 0;
        last_vectors = vectors_for(tiles, count > 0 ? cols - (count - 1) * width : 1);
        padded_cols = count > 0 ? (count - 1) * width + std::int64_t{last_vectors} * tiles.lanes : 0;
    }
    std::int64_t first_col(std::int64_t panel) const { return panel * width; }
    std::int64_t panel_width(std::int64_t panel, int lanes) const {
        return panel + 1 < count ? width : std::int64_t{last_vectors} * lanes;
    }
    std::int64_t panel_cols(std::int64_t panel) const {
        return panel + 1 < count ? width : cols - panel * width;
    }
};

}  // namespace fastconv::cpu

// In which order the register tiles take a block's output positions. A tile skips a tap that lies in the
// padding for all of its positions, so positions that miss the same taps should share tiles:
//
//   rows     row-major                     tiles cross lines and miss few taps together
//   lines    row-major, a line a stretch   a tile of the first line misses the kernel's first row
//   spiral   rings from outside inwards    each side of a ring is a stretch:  a a a b
//                                                                             d . . b
//                                                                             d c c c
// oneDNN skips them too. On 7x7 a 3x3 kernel has 361 of 441 products, a spiral of tiles of 6 computes 369;
// on 16x16, all of a 7x7 kernel's gradient, 4900 of 12544 and 5560. The sums keep their order.
#pragma once

#include <cstdint>

#include "core/plan.h"

namespace fastconv::cpu {

struct OrderChoice {
    PositionOrder order;
    double share;  // of the products of all taps at all positions
};

/// The order in which tiles of `tile_rows` positions do least.
OrderChoice choose_order(const Correlation& phase, int tile_rows);

/// Lines or a spiral. order[r] = the row-major index of the r-th position of a block of images x lines x
/// width, ends[s] = where stretch s ends: tiles do not cross it. A stretch has the same positions of all
/// images. Returns the number of stretches, at most 1 + 4 * lines.
std::int64_t order_positions(PositionOrder order, std::int64_t rings, std::int64_t images,
                             std::int64_t lines, std::int64_t width, std::int32_t* positions,
                             std::int32_t* ends);

/// Rings of positions, from outside, that miss taps.
std::int64_t padded_rings(const Correlation& phase);

}  // namespace fastconv::cpu

// Cutting arrays into lines along an axis; see lines.h.
#include "cpu/lines.h"

#include <cstdlib>

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kTileElements = 8192;  // 32 KB of float32 an operand: three passes from L2
constexpr std::int64_t kLeastCols = 64;       // columns: four vectors of the widest ISA

}  // namespace

Lines cut_lines(const Tensor* const* operands, int count, int axis) {
    Tensor rest[3];
    for (int k = 0; k < count; ++k) rest[k] = without_axis(*operands[k], axis);
    Lines lines;
    lines.grid = count == 2 ? make_grid({&rest[0], &rest[1]})
                            : make_grid({&rest[0], &rest[1], &rest[2]});
    lines.length = operands[0]->size[axis];
    lines.grid.empty = lines.grid.empty || lines.length == 0;
    for (int k = 0; k < count; ++k) lines.step[k] = lines.length == 1 ? 1 : operands[k]->elems[axis];
    lines.as_rows = std::abs(lines.step[0]) <= std::abs(lines.grid.col_elems(0));
    const std::int64_t least = lines.as_rows ? 1 : kLeastCols;
    const std::int64_t fitting =
        kTileElements / std::max<std::int64_t>(lines.length, 1) / least * least;
    lines.lines_per_tile = std::clamp(fitting, least, std::max(least, lines.grid.cols()));
    lines.tiles = (lines.grid.cols() + lines.lines_per_tile - 1) / lines.lines_per_tile;
    return lines;
}

}  // namespace fastconv::cpu

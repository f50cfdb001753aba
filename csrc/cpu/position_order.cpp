// Orders of output positions, and the choice among them; see position_order.h.
#include "cpu/position_order.h"

#include <algorithm>

#include "core/ceil_div.h"

namespace fastconv::cpu {
namespace {

/// Taps of an axis that lie in the image for position i.
std::int64_t taps_inside(const AxisTaps& taps, std::int64_t i, std::int64_t source) {
    std::int64_t inside = 0;
    for (std::int64_t m = 0; m < taps.count; ++m) {
        const std::int64_t at = i * taps.step + taps.offset + m * taps.offset_step;
        inside += at >= 0 && at < source;
    }
    return inside;
}

/// How many of an axis' positions, from either end, miss taps.
std::int64_t padded_ends(const AxisTaps& taps, std::int64_t out, std::int64_t source) {
    std::int64_t low = 0, high = 0;
    while (low < out && taps_inside(taps, low, source) < taps.count) ++low;
    while (high < out && taps_inside(taps, out - 1 - high, source) < taps.count) ++high;
    return std::max(low, high);
}

/// Calls side(length, first, step) for the four sides of a ring, clockwise, each without its last corner.
template <class Side>
void for_sides(std::int64_t ring, std::int64_t lines, std::int64_t width, Side&& side) {
    const std::int64_t h = lines - 2 * ring, w = width - 2 * ring;
    const std::int64_t first = ring * width + ring, last = first + (h - 1) * width + w - 1;
    side(w - 1, first, 1);
    side(h - 1, first + w - 1, width);
    side(w - 1, last, -1);
    side(h - 1, last - (w - 1), -width);
}

double spiral_work(const Correlation& phase, std::int64_t rings, int tile_rows) {
    const std::int64_t images = phase.block_n;
    const AxisTaps &th = phase.taps_h, &tw = phase.taps_w;
    std::int64_t work = 0;
    for (std::int64_t ring = 0; ring < rings; ++ring) {
        const std::int64_t above = taps_inside(th, ring, phase.source_h);
        const std::int64_t below = taps_inside(th, phase.out_h - 1 - ring, phase.source_h);
        const std::int64_t left = taps_inside(tw, ring, phase.source_w);
        const std::int64_t right = taps_inside(tw, phase.out_w - 1 - ring, phase.source_w);
        const std::int64_t across = images * (phase.out_w - 2 * ring - 1);
        const std::int64_t down = images * (phase.out_h - 2 * ring - 1);
        work += ceil_div(across, tile_rows) * (above + below) * tw.count +
                ceil_div(down, tile_rows) * (left + right) * th.count;
    }
    const std::int64_t inner = images * (phase.out_h - 2 * rings) * (phase.out_w - 2 * rings);
    return static_cast<double>(work + ceil_div(inner, tile_rows) * th.count * tw.count);
}

}  // namespace

std::int64_t padded_rings(const Correlation& phase) {
    const std::int64_t rings = std::max(padded_ends(phase.taps_h, phase.out_h, phase.source_h),
                                        padded_ends(phase.taps_w, phase.out_w, phase.source_w));
    return std::min(rings, std::min(phase.out_h, phase.out_w) / 2);
}

OrderChoice choose_order(const Correlation& phase, int tile_rows) {
    OrderChoice choice{PositionOrder::kRows, 1};
    const std::int64_t taps = phase.taps_h.count * phase.taps_w.count;
    const bool in_place = !phase.gather && phase.out.channel_elems == 1;
    if (!in_place || taps <= 1 || phase.out_h * phase.out_w == 0) return choice;
    const std::int64_t rings = padded_rings(phase);
    if (rings == 0) return choice;
    const bool whole = phase.blocks_h * phase.blocks_w == 1;
    const double rows = static_cast<double>(
        ceil_div(phase.block_n * phase.out_h * phase.out_w, tile_rows) * taps);
    const auto offer = [&](PositionOrder order, double work) {
        constexpr double kGain = 0.98;  // below it the list of positions costs as much
        if (work < kGain * choice.share * rows) choice = {order, work / rows};
    };
    double lines = 0;
    for (std::int64_t i = 0; i < phase.out_h; ++i)
        lines += static_cast<double>(taps_inside(phase.taps_h, i, phase.source_h) *
                                     phase.taps_w.count *
                                     ceil_div(phase.block_n * phase.out_w, tile_rows));
    if (phase.blocks_w <= 1) offer(PositionOrder::kLines, lines);
    if (whole) offer(PositionOrder::kSpiral, spiral_work(phase, rings, tile_rows));
    return choice;
}

std::int64_t order_positions(PositionOrder order, std::int64_t rings, std::int64_t images,
                             std::int64_t lines, std::int64_t width, std::int32_t* positions,
                             std::int32_t* ends) {
    std::int64_t count = 0, stretches = 0;
    const auto run = [&](std::int64_t length, std::int64_t first, std::int64_t step) {
        for (std::int64_t r = 0; r < length; ++r)
            positions[count++] = static_cast<std::int32_t>(first + r * step);
    };
    const auto stretch = [&](std::int64_t length, std::int64_t first, std::int64_t step) {
        for (std::int64_t n = 0; n < images; ++n) run(length, first + n * lines * width, step);
        ends[stretches++] = static_cast<std::int32_t>(count);
    };
    if (order == PositionOrder::kLines) {
        for (std::int64_t i = 0; i < lines; ++i) stretch(width, i * width, 1);
        return stretches;
    }
    for (std::int64_t ring = 0; ring < rings; ++ring) for_sides(ring, lines, width, stretch);
    for (std::int64_t n = 0; n < images; ++n)
        for (std::int64_t i = rings; i < lines - rings; ++i)
            run(width - 2 * rings, (n * lines + i) * width + rings, 1);
    if (ends[stretches - 1] != count) ends[stretches++] = static_cast<std::int32_t>(count);
    return stretches;
}

}  // namespace fastconv::cpu

// Runs Winograd's weight gradient: steps, layouts and cuts are in cpu/conv2d_winograd_grad_weight.cpp.
#include "cpu/winograd_grad_weight.h"

#include <algorithm>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/isa.h"
#include "cpu/kernels_outer.h"
#include "cpu/outer.h"
#include "cpu/outer_part.h"
#include "cpu/winograd_choice.h"
#include "cpu/winograd_tiles.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kStageChannels = 16;  // whose taps leave at once: 16 x 9 x 64 floats, 37 KB
constexpr std::int64_t kTotalsInL2 = 128 << 10;  // floats

// grad_output as the source of its tiles.
Correlation gradient_view(const Correlation& view) {
    Correlation gradient = view;
    gradient.source = view.out;
    gradient.source_group_elems = view.out_group_elems;
    gradient.source_h = view.out_h;
    gradient.source_w = view.out_w;
    gradient.taps_h.offset = gradient.taps_w.offset = 0;
    gradient.taps_h.step = gradient.taps_w.step = 1;
    gradient.gather = view.out.channel_elems != 1;
    return gradient;
}

/// What all tasks read.
struct Context {
    const ConvPlan& plan;
    const Correlation& view;
    const Correlation gradient;
    const Kernels<float>& kernels;
    const WinogradVariant<float>& variant;
    const WinogradGradientOperands& operands;
    const OuterOperands<float> outer;
    const WinogradGradientLayout layout;
    const std::int64_t totals_elems;

    Context(const ConvPlan& p, const WinogradGradientOperands& o)
        : plan(p), view(p.phases[0]), gradient(gradient_view(view)),
          kernels(p.isa->kernels<float>()), variant(winograd_variant(p)), operands(o),
          outer{o.source, o.out, o.weight, o.workspace, o.accumulate},
          layout(winograd_gradient_layout(p)), totals_elems(winograd_totals_elems(p, layout)) {}

    OuterPart<float> part(std::int64_t index) const {
        return OuterPart<float>(view, plan.outer, kernels, outer, index % plan.outer.parts(view.groups));
    }
    Subkernel taps(std::int64_t index) const {
        return subkernel(plan, index / plan.outer.parts(view.groups));
    }
};

/// M of one part, summed over a run of blocks of tiles.
class SumTask {
public:
    SumTask(const Context& context, const OuterPart<float>& part, const Subkernel& taps, char* scratch)
        : context_(context), view_(context.view), winograd_(context.plan.winograd),
          kernels_(context.kernels), variant_(context.variant), layout_(context.layout), part_(part),
          taps_(taps), scratch_(scratch) {}

    void run(std::int64_t begin, std::int64_t end, float* totals) {
        if (begin == end) std::fill_n(totals, context_.totals_elems, 0.0f);
        std::fill_n(at(layout_.zeros), std::max(view_.channels, view_.cols), 0.0f);
        const std::int64_t all = winograd_.tiles() * view_.batch;
        for (std::int64_t block = begin; block < end; ++block) {
            const std::int64_t first = all * block / winograd_.blocks;
            tiles_ = all * (block + 1) / winograd_.blocks - first;
            for_tile_segments(winograd_, first, tiles_, [this](const TileSegment& segment) {
                transform_source(segment);
                transform_gradient(segment);
            });
            for (std::int64_t point = 0; point < variant_.points(); ++point)
                if (has_point(variant_, taps_, point))
                    multiply(point, block == begin, totals + point * layout_.totals_point_elems);
        }
    }

private:
    float* at(std::size_t offset) const { return reinterpret_cast<float*>(scratch_ + offset); }

    void transform_source(const TileSegment& segment) {
        const float* first = context_.operands.source + part_.group * view_.source_group_elems +
                             part_.channel_begin * view_.source.channel_elems;
        const TilePixels pixels(*kernels_.copy, view_, first, part_.channels, variant_.alpha(),
                                variant_.m, segment, at(layout_.strip), at(layout_.zeros), taps_.row, taps_.col);
        WinogradInput<float> tile;
        tile.channels = part_.channels;
        tile.point_elems = layout_.v_point_elems;
        for (std::int64_t t = 0; t < segment.tiles; ++t) {
            pixels.find(t, tile.pixels);
            tile.points = at(layout_.v) + (segment.first + t) * layout_.pitch;
            variant_.input.of[variant_.alpha()][variant_.alpha()](tile);
        }
    }

    void transform_gradient(const TileSegment& segment) {
        const Correlation& gradient = context_.gradient;
        const std::int64_t col = part_.panels.first_col(part_.panel_begin);
        const float* first = context_.operands.out + part_.group * gradient.source_group_elems +
                             col * gradient.source.channel_elems;
        const std::int64_t last = part_.panel_end - 1;
        WinogradGradient<float> tile;
        tile.cols = part_.panels.first_col(last) + part_.panels.panel_cols(last) - col;
        tile.width = part_.panels.width;
        tile.point_elems = layout_.w_point_elems;
        tile.panel_elems = tiles_ * part_.panels.width;
        const TilePixels pixels(*kernels_.copy, gradient, first, tile.cols, variant_.m, variant_.m,
                                segment, at(layout_.strip), at(layout_.zeros));
        // The last panel may be narrower: its tiles lie closer together.
        const bool narrow = part_.width(last) != tile.width;
        const std::int64_t narrow_cols = narrow ? part_.panels.panel_cols(last) : 0;
        for (std::int64_t t = 0; t < segment.tiles; ++t) {
            pixels.find(t, tile.pixels);
            tile.points = at(layout_.w) + (segment.first + t) * tile.width;
            tile.cols -= narrow_cols;
            if (tile.cols > 0) variant_.gradient(tile);
            tile.cols += narrow_cols;
            if (narrow) transform_narrow(tile, segment.first + t, narrow_cols);
        }
    }

    void transform_narrow(WinogradGradient<float> tile, std::int64_t index, std::int64_t cols) {
        const std::int64_t last = part_.panel_end - 1;
        const std::int64_t before = tile.cols - cols;
        for (int i = 0; i < variant_.m * variant_.m; ++i) tile.pixels[i] += before;
        tile.cols = cols;
        tile.points = at(layout_.w) + (last - part_.panel_begin) * tile.panel_elems +
                      index * part_.width(last);
        variant_.gradient(tile);
    }

    // M[c][k] (+)= sum over the block's tiles of V[tile][c] W[tile][k], at one point.
    void multiply(std::int64_t point, bool first, float* totals) const {
        const OuterRun<float> run{at(layout_.v) + point * layout_.v_point_elems, 0, tiles_};
        OuterTile<float> tile;
        tile.runs = &run;
        tile.run_count = 1;
        tile.x_pitch = layout_.pitch;
        tile.first = first;
        tile.cold = context_.totals_elems > kTotalsInL2;
        const float* lines = at(layout_.w) + point * layout_.w_point_elems;
        for (std::int64_t panel = part_.panel_begin; panel < part_.panel_end; ++panel) {
            const std::int64_t width = part_.width(panel), index = panel - part_.panel_begin;
            const int vectors = static_cast<int>(width / kernels_.outer->lanes);
            const std::int64_t row_tiles =
                ceil_div(part_.channels, kernels_.outer->max_rows[vectors]);
            tile.lines = lines + index * tiles_ * part_.panels.width;
            tile.sum_pitch = width;
            float* sums = totals + index * variant_.points() * layout_.totals_point_elems;
            for (std::int64_t t = 0, row = 0; t < row_tiles; ++t) {
                const std::int64_t next = part_.channels * (t + 1) / row_tiles;
                tile.x_offset = row;
                tile.sum = sums + row * width;
                kernels_.outer->tile[vectors][next - row](tile);
                row = next;
            }
        }
    }

    const Context& context_;
    const Correlation& view_;
    const WinogradPlan& winograd_;
    const Kernels<float>& kernels_;
    const WinogradVariant<float>& variant_;
    const WinogradGradientLayout& layout_;
    const OuterPart<float>& part_;
    const Subkernel taps_;
    char* scratch_;
    std::int64_t tiles_ = 0;
};

/// Channels [c, c + count) of a panel: the totals of all sums added in order, transformed, written.
void write_taps(const Context& context, const OuterPart<float>& part, const Subkernel& taps,
                std::int64_t panel, std::int64_t c, float* totals, std::int64_t sum_elems, char* scratch) {
    const WinogradGradientLayout& layout = context.layout;
    const WinogradVariant<float>& variant = context.variant;
    const OuterBlocking& blocking = context.plan.outer;
    const std::int64_t width = part.width(panel), r = variant.r;
    const std::int64_t count = std::min(kStageChannels, part.channels - c);
    float* panel_totals = totals + (panel - part.panel_begin) * variant.points() *
                                       layout.totals_point_elems + c * width;
    for (std::int64_t sum = 1; sum < blocking.sums; ++sum)
        for (std::int64_t point = 0; point < variant.points(); ++point) {
            if (!has_point(variant, taps, point)) continue;
            float* first = panel_totals + point * layout.totals_point_elems;
            context.kernels.outer->add(count * width, first + sum * sum_elems, first);
        }
    float* stage = reinterpret_cast<float*>(scratch + layout.stage);
    WinogradTaps<float> line;
    line.point_elems = layout.totals_point_elems;
    line.vectors = static_cast<int>(width / context.kernels.outer->lanes);
    line.tap_elems = blocking.taps_inside ? width : count * width;
    for (std::int64_t i = 0; i < count; ++i) {
        line.points = panel_totals + i * width;
        line.taps = stage + i * (blocking.taps_inside ? r * r : 1) * width;
        variant.taps(line);
    }
    float* added = reinterpret_cast<float*>(scratch + layout.stage_added);
    float* to = part.panel_weight(panel) + c * blocking.weight_channel_elems;
    if (blocking.taps_inside)
        return part.write_rows(panel, count * r * r, stage, to, blocking.weight_tap_elems, added);
    for (std::int64_t y = 0; y < taps.height; ++y)
        for (std::int64_t x = 0; x < taps.width; ++x)
            part.write_rows(panel, count, stage + (y * r + x) * count * width,
                            to + (taps.row + y * context.view.taps_h.step) * blocking.weight_row_elems +
                                (taps.col + x * context.view.taps_w.step) * blocking.weight_tap_elems,
                            blocking.weight_channel_elems, added);
}

}  // namespace

WinogradGradientLayout winograd_gradient_layout(const ConvPlan& plan) {
    const Correlation& view = plan.phases[0];
    const OuterBlocking& blocking = plan.outer;
    const Kernels<float>& kernels = plan.isa->kernels<float>();
    const WinogradVariant<float>& variant = winograd_variant(plan);
    const Panels<float> panels(*kernels.outer, view.cols);
    const std::int64_t lanes = kernels.outer->lanes, points = variant.points();
    const std::int64_t channels = blocking.part_channels(view.channels);
    const std::int64_t cols = ceil_div(panels.count, blocking.panel_parts) * panels.width;
    const std::int64_t tiles = plan.winograd.block_tiles;
    WinogradGradientLayout layout;
    const auto take = [&layout](std::int64_t elements) {
        const std::size_t begin = layout.bytes;
        layout.bytes += (static_cast<std::size_t>(elements) * sizeof(float) + 63) / 64 * 64;
        return begin;
    };
    layout.pitch = odd_lines(ceil_div(channels, lanes) * lanes);
    layout.v_point_elems = odd_lines(tiles * layout.pitch);
    layout.w_point_elems = odd_lines(tiles * cols);
    layout.totals_point_elems = odd_lines(channels * panels.width);
    layout.v = take(points * layout.v_point_elems);
    layout.w = take(points * layout.w_point_elems);
    layout.zeros = take(std::max(view.channels, view.cols));
    const std::int64_t line = tiles * variant.m;
    const bool gather_out = view.out.channel_elems != 1;
    layout.strip = take(
        std::max(view.gather ? variant.alpha() * (line + variant.r - 1) * channels : 0,
                 gather_out ? variant.m * line * cols : 0));
    layout.totals =
        take(blocking.sums > 1 ? 0 : points * cols / panels.width * layout.totals_point_elems);
    layout.stage = take(kStageChannels * variant.r * variant.r * panels.width);
    layout.stage_added = take(kOuterStageRows * panels.width);
    return layout;
}

SumTasks winograd_sum_tasks(const ConvPlan& plan) {
    return {plan.winograd.subkernels() * plan.outer.parts(plan.phases[0].groups), plan.outer.sums,
            plan.winograd.blocks};
}

std::int64_t winograd_totals_elems(const ConvPlan& plan, const WinogradGradientLayout& layout) {
    const Panels<float> panels(*plan.isa->kernels<float>().outer, plan.phases[0].cols);
    return ceil_div(panels.count, plan.outer.panel_parts) * winograd_variant(plan).points() *
           layout.totals_point_elems;
}

void run_winograd_gradient(const ConvPlan& plan, const WinogradGradientOperands& operands) {
    const Context context(plan, operands);
    if (context.view.groups * context.view.channels * context.view.cols == 0) return;
    const SumTasks tasks = winograd_sum_tasks(plan);
    const std::int64_t parts = tasks.parts, sums = tasks.sums, elems = context.totals_elems;
    const auto scratch = [&context] {
        return static_cast<char*>(thread_scratch(context.layout.bytes));
    };
    parallel_for(tasks.count(), plan.threads, FloatMode::kFlushDenormals,
                 [&](std::int64_t task, int) {
        const std::int64_t number = tasks.part(task), sum = tasks.sum(task);
        const OuterPart<float> part = context.part(number);
        char* memory = scratch();
        float* totals = sums > 1 ? operands.workspace + (sum * parts + number) * elems
                                 : reinterpret_cast<float*>(memory + context.layout.totals);
        SumTask(context, part, context.taps(number), memory)
            .run(tasks.begin(sum), tasks.begin(sum + 1), totals);
        if (sums > 1) return;
        for (std::int64_t panel = part.panel_begin; panel < part.panel_end; ++panel)
            for (std::int64_t c = 0; c < part.channels; c += kStageChannels)
                write_taps(context, part, context.taps(number), panel, c, totals, 0, memory);
    });
    if (sums == 1) return;
    const std::int64_t stages =
        ceil_div(plan.outer.part_channels(context.view.channels), kStageChannels);
    parallel_for(parts * stages, plan.threads, FloatMode::kFlushDenormals,
                 [&](std::int64_t task, int) {
        const OuterPart<float> part = context.part(task / stages);
        const std::int64_t c = task % stages * kStageChannels;
        if (c >= part.channels) return;
        for (std::int64_t panel = part.panel_begin; panel < part.panel_end; ++panel)
            write_taps(context, part, context.taps(task / stages), panel, c,
                       operands.workspace + task / stages * elems, parts * elems, scratch());
    });
}

}  // namespace fastconv::cpu

// One block of Winograd tiles: input transform, a product a point, output transform; V and M stay in
// the thread's scratch. Steps and layouts: cpu/conv2d_winograd.cpp.
#include "cpu/winograd_block.h"

#include <algorithm>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "cpu/isa.h"
#include "cpu/kernels_gemm.h"
#include "cpu/panels.h"
#include "cpu/winograd_tiles.h"
#include "cpu/winograd_weights.h"

namespace fastconv::cpu {
namespace {

class TileBlock {
public:
    TileBlock(const ConvPlan& plan, const WinogradOperands& operands, std::int64_t task)
        : plan_(plan), phase_(plan.phases[0]), winograd_(plan.winograd),
          kernels_(plan.isa->kernels<float>()),
          variant_(kernels_.winograd->variants[plan.winograd.variant]), operands_(operands),
          weights_(plan, operands.weight), transformed_(plan),
          panels_(*kernels_.gemm, phase_.cols),
          layout_(winograd_layout(plan, variant_)),
          begin_(winograd_.tiles() * phase_.batch * (task % winograd_.blocks) / winograd_.blocks),
          tiles_(winograd_.tiles() * phase_.batch * (task % winograd_.blocks + 1) / winograd_.blocks - begin_),
          order_(winograd_, begin_, tiles_),
          scratch_(static_cast<char*>(thread_scratch(layout_.bytes))) {
        // Of a U that lies near anyway lines in L1 are in the way: 64 -> 64 on 56x56 0.91x. Larger ones come from
        // memory in a network: 96 -> 208 on 14x14 1.34x, 128 -> 128 on 28x28 1.09x; from L3 1.0x.
        constexpr std::int64_t kNearElems = 1 << 18;
        const std::int64_t u_elems =
            variant_.points() * winograd_.subkernels() * winograd_.channels * phase_.cols;
        fetches_near_ = fetches_near() && u_elems > kNearElems;
        // A part's tasks follow each other: with U made once a call their thread's stretch holds what it has
        // made itself, or most of it.
        part_ = task / winograd_.blocks % winograd_.parts;
        group_ = task / winograd_.blocks / winograd_.parts;
    }

    void run() {
        std::fill_n(at<float>(layout_.zeros), winograd_.channels, 0.0f);
        point_at_rows(at<const float*>(layout_.v_rows), layout_.v, layout_.v_point_elems, layout_.v_pitch);
        std::int64_t begin = 0, end = panels_.count;
        if (winograd_.weights_by_task) {
            panels_ = Panels<float>::of_part(*kernels_.gemm, phase_.cols, part_, winograd_.parts);
            end = panels_.count;
        } else {
            begin = panels_.count * part_ / winograd_.parts;
            end = panels_.count * (part_ + 1) / winograd_.parts;
        }
        const std::int64_t last = winograd_.subkernels() - 1;
        for (subkernel_ = 0; subkernel_ <= last; ++subkernel_) {
            order_.for_segments([this](const TileSegment& segment) { transform_input(segment); });
            for (std::int64_t panel = begin; panel < end; ++panel) {
                m_first_ = (panel - begin) * layout_.m_panel_elems;
                multiply(panel);
                if (subkernel_ == last)
                    order_.for_segments(
                        [this, panel](const TileSegment& segment) { transform_output(segment, panel); });
            }
        }
    }

private:
    template <class U>
    U* at(std::size_t offset) const { return reinterpret_cast<U*>(scratch_ + offset); }

    // (point, tile): where each tile's channels or columns are.
    template <class U>
    void point_at_rows(U** rows, std::size_t values, std::int64_t point_elems, std::int64_t pitch) const {
        for (std::int64_t point = 0; point < variant_.points(); ++point)
            for (std::int64_t t = 0; t < tiles_; ++t)
                *rows++ = at<float>(values) + point * point_elems + t * pitch;
    }

    void transform_input(const TileSegment& segment) {
        const Subkernel taps = subkernel(plan_, subkernel_);
        const TilePixels pixels(*kernels_.copy, phase_,
                                operands_.source + group_ * phase_.source_group_elems,
                                winograd_.channels, variant_.alpha(), variant_.m, segment,
                                at<float>(layout_.strip), at<float>(layout_.zeros), taps.row, taps.col,
                                winograd_.folded);
        const auto transform = variant_.input.of[points_of(variant_, taps.height, segment.height)]
                                                [points_of(variant_, taps.width, segment.width)];
        WinogradInput<float> tile;
        tile.point_elems = layout_.v_point_elems;
        for (std::int64_t t = 0; t < segment.tiles; ++t) {
            pixels.find(t, tile.pixels);
            tile.points = at<float>(layout_.v) + (segment.first + t) * layout_.v_pitch;
            for (tile.first = 0; tile.first < winograd_.channels; tile.first += step()) {
                tile.channels = std::min(step(), winograd_.channels - tile.first);
                transform(tile);
                tile.points += layout_.v_chunk_elems;
            }
        }
    }

    // Channels that are multiplied at a time.
    std::int64_t step() const { return winograd_.weights_by_task ? kWinogradChunk : winograd_.channels; }

    // M = V U for every point, (point, tile, width); of all subkernels but the first, M += V U.
    void multiply(std::int64_t panel) {
        const std::int64_t width = panels_.panel_width(panel, kernels_.gemm->lanes);
        if (width != m_width_)
            point_at_rows(at<float*>(layout_.m_rows), layout_.m, layout_.m_point_elems, width);
        m_width_ = width;
        const bool by_task = winograd_.weights_by_task;
        const Subkernel taps = subkernel(plan_, subkernel_);
        for (std::int64_t c = 0; c < winograd_.channels; c += step()) {
            const std::int64_t channels = std::min(step(), winograd_.channels - c);
            const std::int64_t point_elems = odd_lines(channels * width);
            const float* u = at<float>(layout_.u);
            if (by_task)
                weights_.transform({group_, panels_.first_col(panel), panels_.panel_cols(panel), width,
                                    c, channels},
                                   subkernel_, at<float>(layout_.u), point_elems, at<float>(layout_.weights));
            else u = operands_.transformed + transformed_.first(group_, subkernel_, panel);
            for (std::int64_t point = 0; point < variant_.points(); ++point)
                if (has_point(variant_, taps, point))
                    multiply_point(u + point * point_elems, point_elems, point, c, channels, width);
                else if (subkernel_ == 0 && c == 0)  // it has the most taps: the others have not that point either
                    std::fill_n(at<float>(layout_.m) + m_first_ + point * layout_.m_point_elems, tiles_ * width,
                                0.0f);
        }
    }

    // All channels, or a chunk of them. The sums of the blocks before are added up in L1; of chunks and of
    // subkernels, which come one at a time, in M, and those of a block that goes on are in `begun` until then.
    void multiply_point(const float* u, std::int64_t point_elems, std::int64_t point,
                        std::int64_t first, std::int64_t channels, std::int64_t width) {
        const int vectors = static_cast<int>(width / kernels_.gemm->lanes);
        const auto [from, to] = order_.with_point(in_tiles(winograd_.last_w, point % variant_.alpha()),
                                                  in_tiles(winograd_.last_h, point / variant_.alpha()));
        const std::int64_t row_tiles = ceil_div(to - from, kernels_.gemm->max_rows[vectors]);
        const bool by_task = winograd_.weights_by_task, several = winograd_.subkernels() > 1;
        const bool goes_on = by_task && first + channels < winograd_.channels &&
                             (first + channels) % kWinogradBlock != 0;
        GemmTile<float> tile;
        tile.ahead_near = fetches_near_;
        tile.segments = 1;
        tile.cols = width;
        tile.sum = at<float>(layout_.sum);
        tile.out_offset = m_first_;
        const std::int64_t chunk_elems = by_task ? first / kWinogradChunk * layout_.v_chunk_elems : 0;
        for (std::int64_t t = 0, row = from; t < row_tiles; ++t) {
            const std::int64_t next = from + (to - from) * (t + 1) / row_tiles;
            tile.rows = at<const float*>(layout_.v_rows) + point * tiles_ + row;
            tile.out = at<float*>(layout_.m_rows) + point * tiles_ + row;
            if (several) tile.sum = tile.out[0] + m_first_;
            if (by_task) {
                float* const begun =
                    at<float>(layout_.begun) + point * layout_.m_point_elems + row * width;
                tile.sum = goes_on ? begun : tile.out[0] + m_first_;
                tile.begun = first % kWinogradBlock != 0 ? begun : nullptr;
            }
            for (std::int64_t c = first; c < first + channels; c += kWinogradBlock) {
                tile.row_offset = c - first + chunk_elems;
                tile.depth = std::min(kWinogradBlock, first + channels - c);
                tile.first = (subkernel_ == 0 && c < kWinogradBlock) || goes_on;
                tile.last = subkernel_ + 1 == winograd_.subkernels() && c + tile.depth == winograd_.channels;
                tile.panel = u + (c - first) * width;
                if (by_task) {
                    tile.ahead = tile.rows[0] + tile.row_offset + layout_.v_point_elems;
                    tile.ahead_step = next - row;
                } else {
                    fetch_ahead(tile, tile.panel + point_elems, width, t, row_tiles);
                }
                kernels_.gemm->tile[vectors][next - row](tile);
            }
            row = next;
        }
    }

    // Whether tiles with so many outputs along an axis have the point there.
    bool in_tiles(int outputs, std::int64_t point) const {
        return outputs == variant_.m || variant_.uses(outputs + variant_.r - 1, static_cast<int>(point));
    }

    void transform_output(const TileSegment& segment, std::int64_t panel) {
        const std::int64_t cols = panels_.panel_cols(panel), col = panels_.first_col(panel);
        // Of a tile's m x m positions there are side x side in the output, each of step x step.
        const bool pooled = plan_.strides.pooled;
        const std::int64_t step = pooled ? 2 : 1, side = variant_.m / step;
        const std::int64_t i = segment.tile_row * side, j = segment.tile_col * side;
        const std::int64_t height = std::min(side, phase_.out_h / step - i);
        const std::int64_t length = std::min(segment.tiles * side, phase_.out_w / step - j);
        float* out = operands_.out + phase_.out_first_elems + segment.image * phase_.out.batch_elems +
                     group_ * phase_.out_group_elems + col * phase_.out.channel_elems +
                     i * phase_.out.height_elems + j * phase_.out.width_elems;
        Pixels<float> target{out, phase_.out.height_elems, phase_.out.width_elems};
        if (phase_.out.channel_elems != 1) target = strip_at(layout_.out_strip, segment.tiles);
        Pixels<const float> added{nullptr, 0, 0};
        if (operands_.epilogue.residual)
            added = residual(segment, col, cols, height * step, length * step);

        const auto& transforms = pooled ? variant_.pooled : variant_.output;
        const auto transform = transforms.of[segment.height][segment.width];
        WinogradOutput<float> tile;
        std::fill(std::begin(tile.residual), std::end(tile.residual), nullptr);
        const std::int64_t width = panels_.panel_width(panel, kernels_.gemm->lanes);
        tile.point_elems = layout_.m_point_elems;
        tile.cols = cols;
        tile.relu = operands_.epilogue.relu;
        if (operands_.epilogue.bias)
            tile.bias = operands_.epilogue.bias + group_ * phase_.cols + col;
        for (std::int64_t t = 0; t < segment.tiles; ++t) {
            tile.points = at<float>(layout_.m) + m_first_ + (segment.first + t) * width;
            target.of_tile(t, side, height, length, tile.pixels);
            if (added.first)
                added.of_tile(t, variant_.m, height * step, length * step, tile.residual);
            transform(tile);
        }
        if (phase_.out.channel_elems == 1) return;
        for (std::int64_t y = 0; y < height; ++y)
            kernels_.copy->copy(length, cols, {target.at(y, 0), panels_.width, 1},
                                {out + y * phase_.out.height_elems, phase_.out.width_elems,
                                 phase_.out.channel_elems});
    }

    template <class U>
    struct Pixels {
        U* first;
        std::int64_t row_elems, col_elems;
        U* at(std::int64_t row, std::int64_t col) const {
            return first + row * row_elems + col * col_elems;
        }
        // pixels[y * side + x] of tile t; null outside of height x length.
        void of_tile(std::int64_t t, std::int64_t side, std::int64_t height, std::int64_t length,
                     U** pixels) const {
            for (std::int64_t y = 0; y < side; ++y)
                for (std::int64_t x = t * side; x < (t + 1) * side; ++x)
                    *pixels++ = y < height && x < length ? at(y, x) : nullptr;
        }
    };

    Pixels<float> strip_at(std::size_t offset, std::int64_t tiles) const {
        return {at<float>(offset), tiles * variant_.m * panels_.width, panels_.width};
    }

    Pixels<const float> residual(const TileSegment& segment, std::int64_t col, std::int64_t cols,
                                 std::int64_t height, std::int64_t length) const {
        const Strides& strides = phase_.residual;
        const float* first = operands_.epilogue.residual + phase_.residual_first_elems +
                             segment.image * strides.batch_elems +
                             group_ * phase_.residual_group_elems + col * strides.channel_elems +
                             segment.tile_row * variant_.m * strides.height_elems +
                             segment.tile_col * variant_.m * strides.width_elems;
        if (strides.channel_elems == 1) return {first, strides.height_elems, strides.width_elems};
        const Pixels<float> strip = strip_at(layout_.residual_strip, segment.tiles);
        for (std::int64_t y = 0; y < height; ++y)
            kernels_.copy->copy(
                length, cols,
                {first + y * strides.height_elems, strides.width_elems, strides.channel_elems},
                {strip.at(y, 0), panels_.width, 1});
        return {strip.first, strip.row_elems, strip.col_elems};
    }

    const ConvPlan& plan_;
    const Correlation& phase_;
    const WinogradPlan& winograd_;
    const Kernels<float>& kernels_;
    const WinogradVariant<float>& variant_;
    const WinogradOperands& operands_;
    WinogradWeights weights_;
    TransformedWeights transformed_;
    Panels<float> panels_;
    WinogradLayout layout_;
    std::int64_t begin_, tiles_;
    TileOrder order_;
    char* scratch_;
    std::int64_t part_, group_;
    std::int64_t m_width_ = 0;  // that m_rows are for
    std::int64_t subkernel_ = 0;
    std::int64_t m_first_ = 0;  // where M of the panel begins
    bool fetches_near_;
};

// That a task of the plan multiplies. The widest part need not have most: 18 vectors are five panels, 17 six.
std::int64_t most_panels(const ConvPlan& plan) {
    const GemmKernels<float>& gemm = *plan.isa->kernels<float>().gemm;
    const std::int64_t cols = plan.phases[0].cols, parts = plan.winograd.parts;
    if (!plan.winograd.weights_by_task) return ceil_div(Panels<float>(gemm, cols).count, parts);
    std::int64_t most = 0;
    for (std::int64_t part = 0; part < parts; ++part)
        most = std::max(most, Panels<float>::of_part(gemm, cols, part, parts).count);
    return most;
}

}  // namespace

WinogradLayout winograd_layout(const ConvPlan& plan, const WinogradVariant<float>& variant) {
    const Correlation& phase = plan.phases[0];
    const std::int64_t width = widest_panel(*plan.isa->kernels<float>().gemm);
    const WinogradPlan& winograd = plan.winograd;
    const std::int64_t rows = variant.points() * winograd.block_tiles;
    const std::int64_t line = winograd.block_tiles * variant.m;  // positions of a segment's line
    WinogradLayout layout;
    const auto take = [&layout](std::int64_t elements, std::size_t size) {
        const std::size_t begin = layout.bytes;
        layout.bytes += (static_cast<std::size_t>(elements) * size + 63) / 64 * 64;
        return begin;
    };
    const bool chunks = winograd.weights_by_task && winograd.channels > kWinogradChunk;
    layout.v_pitch = chunks ? kWinogradChunk : winograd.pitch;
    layout.v_point_elems = odd_lines(winograd.block_tiles * layout.v_pitch);
    layout.v_chunk_elems = variant.points() * layout.v_point_elems;
    layout.m_point_elems = odd_lines(winograd.block_tiles * width);
    layout.v = take((chunks ? ceil_div(winograd.channels, kWinogradChunk) : 1) * layout.v_chunk_elems,
                    sizeof(float));
    const std::int64_t m_elems = variant.points() * layout.m_point_elems;
    if (winograd.subkernels() > 1) layout.m_panel_elems = m_elems;
    layout.m = take(m_elems * (winograd.subkernels() > 1 ? most_panels(plan) : 1), sizeof(float));
    layout.begun = take(chunks ? m_elems : 0, sizeof(float));
    layout.sum = take(GemmKernels<float>::kMaxRows * width, sizeof(float));
    layout.v_rows = take(rows, sizeof(float*));
    layout.m_rows = take(rows, sizeof(float*));
    layout.u = take(winograd.weights_by_task ? variant.points() * odd_lines(kWinogradChunk * width) : 0,
                    sizeof(float));
    layout.weights = take(winograd.weights_by_task
                              ? WinogradWeights(plan, weight_view<float>(plan, nullptr)).scratch_elems()
                              : 0,
                          sizeof(float));
    layout.zeros = take(winograd.channels, sizeof(float));
    layout.strip = take(
        phase.gather ? variant.alpha() * (line + variant.r - 1) * winograd.channels : 0, sizeof(float));
    const std::int64_t strip = variant.m * line * width;
    layout.out_strip = take(phase.out.channel_elems == 1 ? 0 : strip, sizeof(float));
    layout.residual_strip = take(phase.residual.channel_elems == 1 ? 0 : strip, sizeof(float));
    return layout;
}

void run_winograd_block(const ConvPlan& plan, const WinogradOperands& operands, std::int64_t task) {
    TileBlock(plan, operands, task).run();
}

}  // namespace fastconv::cpu

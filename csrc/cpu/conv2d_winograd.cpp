// Winograd convolution, fused: unit stride, 3x3 by F(2,3) and F(4,3), 5x5 by F(2,5), float32; forward
// and grad_input (a correlation with the kernel turned around, cpu/phases.h).
//
// A task is a block of T tiles, in row-major order through rows and images, and some column panels:
//   1. V[point][tile][c]  = input transform of the tiles, all channels                   stays in L2
//   2. for each panel of 64 columns, for each point:
//        M[tile][k] = sum_c V[point][tile][c] U[point][c][k]      the register tile of the GEMM
//      and the output transform of each tile, with bias, residual and ReLU
// so neither V nor M ever reaches memory. U, the transformed weights, is made once a call.
// Products: alpha^2 a tile instead of m^2 r^2: 2.25 (F(2,3)), 4 (F(4,3)), 2.78 (F(2,5)) times fewer.
//
// Rounding is tile-wise (docs/numerics.md); an infinity or NaN may make its whole tile NaN.
// Not handled: strides, dilation, other kernels, float64.
// A. Lavin, S. Gray (2015); fusing per block of tiles: Gelashvili et al., arXiv 1912.02165.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/conv2d.h"
#include "cpu/correlation.h"
#include "cpu/kernels_gemm.h"
#include "cpu/kernels_winograd.h"
#include "cpu/panels.h"
#include "cpu/phases.h"
#include "cpu/strip.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kDepthMost = 768;  // terms in one accumulator, as in the direct kernels
constexpr std::int64_t kBlockBytes = 900 << 10;  // of V and M: most of a 1 MB L2
constexpr std::int64_t kFewestTiles = 18, kMostTiles = 30;  // multiples of the tile's 6 rows

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct Layout {
    std::size_t v = 0, m = 0;                     // transformed tiles
    std::size_t v_rows = 0, m_rows = 0;           // pointers, (point, tile)
    std::size_t zeros = 0, strip = 0;             // a line of zeros; a segment's source
    std::size_t out_strip = 0, residual_strip = 0;  // (m, tiles * m, width)
    std::size_t bytes = 0;
};

Layout layout_of(const ConvPlan& plan, const WinogradVariant<float>& variant, std::int64_t width) {
    const Correlation& phase = plan.phases[0];
    const WinogradPlan& winograd = plan.winograd;
    const std::int64_t rows = variant.points() * winograd.block_tiles;
    const std::int64_t line = winograd.block_tiles * variant.m;  // positions of a segment's line
    Layout layout;
    const auto take = [&layout](std::int64_t elements, std::size_t size) {
        const std::size_t begin = layout.bytes;
        layout.bytes += (static_cast<std::size_t>(elements) * size + 63) / 64 * 64;
        return begin;
    };
    layout.v = take(rows * winograd.pitch, sizeof(float));
    layout.m = take(rows * width, sizeof(float));
    layout.v_rows = take(rows, sizeof(float*));
    layout.m_rows = take(rows, sizeof(float*));
    layout.zeros = take(phase.channels, sizeof(float));
    layout.strip = take(
        phase.gather ? variant.alpha() * (line + variant.r - 1) * phase.channels : 0, sizeof(float));
    const std::int64_t strip = variant.m * line * width;
    layout.out_strip = take(phase.out.channel_elems == 1 ? 0 : strip, sizeof(float));
    layout.residual_strip = take(phase.residual.channel_elems == 1 ? 0 : strip, sizeof(float));
    return layout;
}

struct Operands {
    const float* source;
    const float* transformed;  // U
    Epilogue<float> epilogue;
    float* out;
};

/// Neighbouring tiles of one line of tiles.
struct Segment {
    std::int64_t image, tile_row, tile_col, tiles;
    std::int64_t first;  // index of its first tile in the block
};

class TileBlock {
public:
    TileBlock(const ConvPlan& plan, const Operands& operands, std::int64_t task)
        : plan_(plan), phase_(plan.phases[0]), winograd_(plan.winograd),
          kernels_(plan.isa->kernels<float>()),
          variant_(kernels_.winograd->variants[plan.winograd.variant]), operands_(operands),
          panels_(*kernels_.gemm, phase_.cols), layout_(layout_of(plan, variant_, panels_.width)),
          scratch_(static_cast<char*>(thread_scratch(layout_.bytes))) {
        part_ = task % winograd_.parts;
        task /= winograd_.parts;
        group_ = task / winograd_.blocks;
        const std::int64_t block = task % winograd_.blocks;
        begin_ = winograd_.tiles() * phase_.batch * block / winograd_.blocks;
        tiles_ = winograd_.tiles() * phase_.batch * (block + 1) / winograd_.blocks - begin_;
    }

    void run() {
        std::fill_n(at<float>(layout_.zeros), phase_.channels, 0.0f);
        for_segments([this](const Segment& segment) { transform_input(segment); });
        const float** v_rows = at<const float*>(layout_.v_rows);
        for (std::int64_t row = 0; row < variant_.points() * tiles_; ++row)
            v_rows[row] = at<float>(layout_.v) + row * winograd_.pitch;
        const std::int64_t begin = panels_.count * part_ / winograd_.parts;
        const std::int64_t end = panels_.count * (part_ + 1) / winograd_.parts;
        for (std::int64_t panel = begin; panel < end; ++panel) {
            multiply(panel);
            for_segments([this, panel](const Segment& segment) { transform_output(segment, panel); });
        }
    }

private:
    template <class U>
    U* at(std::size_t offset) const { return reinterpret_cast<U*>(scratch_ + offset); }

    template <class Body>
    void for_segments(Body&& body) const {
        for (std::int64_t t = 0; t < tiles_;) {
            const std::int64_t index = begin_ + t, within = index % winograd_.tiles();
            Segment segment{index / winograd_.tiles(), within / winograd_.tiles_w,
                            within % winograd_.tiles_w, 0, t};
            segment.tiles = std::min(winograd_.tiles_w - segment.tile_col, tiles_ - t);
            body(segment);
            t += segment.tiles;
        }
    }

    // Pixels of the source that tile (tile_row, tile_col) begins at.
    std::int64_t source_y(std::int64_t tile_row) const {
        return tile_row * variant_.m + phase_.taps_h.offset;
    }
    std::int64_t source_x(std::int64_t tile_col) const {
        return tile_col * variant_.m + phase_.taps_w.offset;
    }

    void transform_input(const Segment& segment) {
        const float* image = operands_.source + segment.image * phase_.source.batch_elems +
                             group_ * phase_.source_group_elems;
        Strip strip;
        strip.first_y = source_y(segment.tile_row);
        strip.first_x = source_x(segment.tile_col);
        strip.height = variant_.alpha();
        strip.width = strip.line_pixels = segment.tiles * variant_.m + variant_.r - 1;
        if (phase_.gather)
            fill_strip(*kernels_.copy, phase_, image, strip, at<float>(layout_.strip));
        WinogradInput<float> tile;
        tile.channels = phase_.channels;
        tile.point_elems = tiles_ * winograd_.pitch;
        for (std::int64_t t = 0; t < segment.tiles; ++t) {
            if (phase_.gather) point_into_strip(strip, t, tile);
            else point_into_image(image, strip, t, tile);
            tile.points = at<float>(layout_.v) + (segment.first + t) * winograd_.pitch;
            variant_.input(tile);
        }
    }

    void point_into_strip(const Strip& strip, std::int64_t t, WinogradInput<float>& tile) const {
        const float* first = at<float>(layout_.strip) + t * variant_.m * phase_.channels;
        for (int y = 0; y < variant_.alpha(); ++y)
            for (int x = 0; x < variant_.alpha(); ++x)
                tile.pixels[y * variant_.alpha() + x] =
                    first + (y * strip.line_pixels + x) * phase_.channels;
    }

    void point_into_image(const float* image, const Strip& strip, std::int64_t t,
                          WinogradInput<float>& tile) const {
        const float* zeros = at<float>(layout_.zeros);
        for (int y = 0; y < variant_.alpha(); ++y) {
            const std::int64_t row = strip.first_y + y;
            for (int x = 0; x < variant_.alpha(); ++x) {
                const std::int64_t col = strip.first_x + t * variant_.m + x;
                const bool inside =
                    row >= 0 && row < phase_.source_h && col >= 0 && col < phase_.source_w;
                tile.pixels[y * variant_.alpha() + x] =
                    inside ? image + row * phase_.source.height_elems +
                                 col * phase_.source.width_elems
                           : zeros;
            }
        }
    }

    // M = V U for every point, (point, tile, width); depth in blocks, whose sums M itself keeps.
    void multiply(std::int64_t panel) {
        const std::int64_t width = panels_.panel_width(panel, kernels_.gemm->lanes);
        float** m_rows = at<float*>(layout_.m_rows);
        for (std::int64_t row = 0; row < variant_.points() * tiles_; ++row)
            m_rows[row] = at<float>(layout_.m) + row * width;
        const int vectors = static_cast<int>(width / kernels_.gemm->lanes);
        const std::int64_t most = kernels_.gemm->max_rows[vectors];
        const std::int64_t row_tiles = ceil_div(tiles_, most);
        const std::int64_t depth = phase_.channels;
        const std::int64_t block = ceil_div(depth, ceil_div(depth, kDepthMost));
        const float* u = operands_.transformed +
                         (group_ * panels_.padded_cols + panels_.first_col(panel)) *
                             variant_.points() * depth;
        GemmTile<float> tile;
        tile.segments = 1;
        tile.cols = width;
        for (std::int64_t point = 0; point < variant_.points(); ++point)
            for (std::int64_t d = 0; d < depth; d += block) {
                tile.depth = std::min(block, depth - d);
                tile.row_offset = d;
                tile.panel = u + (point * depth + d) * width;
                tile.first = d == 0;
                tile.last = d + tile.depth == depth;
                for (std::int64_t t = 0, row = 0; t < row_tiles; ++t) {
                    const std::int64_t next = tiles_ * (t + 1) / row_tiles;
                    tile.rows = at<const float*>(layout_.v_rows) + point * tiles_ + row;
                    tile.out = m_rows + point * tiles_ + row;
                    tile.sum = tile.out[0];
                    kernels_.gemm->tile[vectors][next - row](tile);
                    row = next;
                }
            }
    }

    void transform_output(const Segment& segment, std::int64_t panel) {
        const std::int64_t cols = panels_.panel_cols(panel), col = panels_.first_col(panel);
        const std::int64_t i = segment.tile_row * variant_.m, j = segment.tile_col * variant_.m;
        const std::int64_t height = std::min<std::int64_t>(variant_.m, phase_.out_h - i);
        const std::int64_t length = std::min(segment.tiles * variant_.m, phase_.out_w - j);
        float* out = operands_.out + phase_.out_first_elems + segment.image * phase_.out.batch_elems +
                     group_ * phase_.out_group_elems + col * phase_.out.channel_elems +
                     i * phase_.out.height_elems + j * phase_.out.width_elems;
        Pixels<float> target{out, phase_.out.height_elems, phase_.out.width_elems};
        if (phase_.out.channel_elems != 1) target = strip_at(layout_.out_strip, segment.tiles);
        Pixels<const float> added{nullptr, 0, 0};
        if (operands_.epilogue.residual) added = residual(segment, col, cols, height, length);

        WinogradOutput<float> tile;
        const std::int64_t width = panels_.panel_width(panel, kernels_.gemm->lanes);
        tile.point_elems = tiles_ * width;
        tile.cols = cols;
        tile.relu = operands_.epilogue.relu;
        if (operands_.epilogue.bias)
            tile.bias = operands_.epilogue.bias + group_ * phase_.cols + col;
        for (std::int64_t t = 0; t < segment.tiles; ++t) {
            tile.points = at<float>(layout_.m) + (segment.first + t) * width;
            for (int y = 0; y < variant_.m; ++y)
                for (int x = 0; x < variant_.m; ++x) {
                    const std::int64_t position = t * variant_.m + x;
                    const bool inside = y < height && position < length;
                    const int index = y * variant_.m + x;
                    tile.pixels[index] = inside ? target.at(y, position) : nullptr;
                    tile.residual[index] = inside && added.first ? added.at(y, position) : nullptr;
                }
            variant_.output(tile);
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
    };

    Pixels<float> strip_at(std::size_t offset, std::int64_t tiles) const {
        return {at<float>(offset), tiles * variant_.m * panels_.width, panels_.width};
    }

    Pixels<const float> residual(const Segment& segment, std::int64_t col, std::int64_t cols,
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
    const Operands& operands_;
    Panels<float> panels_;
    Layout layout_;
    char* scratch_;
    std::int64_t part_, group_, begin_, tiles_;
};

// U[group][panel][point][c][k in panel] from packed[group][panel][tap][c][k in panel].
void transform_weights(const ConvPlan& plan, const float* packed, float* transformed) {
    const Correlation& phase = plan.phases[0];
    const Kernels<float>& kernels = plan.isa->kernels<float>();
    const WinogradVariant<float>& variant = kernels.winograd->variants[plan.winograd.variant];
    const Panels<float> panels(*kernels.gemm, phase.cols);
    const std::int64_t taps = variant.r * variant.r, points = variant.points();
    constexpr std::int64_t kChannels = 32;  // a task's: 32 * 36 lines of 256 B written
    const std::int64_t chunks = ceil_div(phase.channels, kChannels);
    parallel_for(phase.groups * panels.count * chunks, plan.threads, FloatMode::kFlushDenormals,
                 [&](std::int64_t task, int) {
        const std::int64_t chunk = task % chunks, panel = task / chunks % panels.count;
        const std::int64_t group = task / chunks / panels.count;
        const std::int64_t width = panels.panel_width(panel, kernels.gemm->lanes);
        const std::int64_t line =
            (group * panels.padded_cols + panels.first_col(panel)) * phase.channels;
        WinogradWeight<float> one;
        one.tap_elems = one.point_elems = phase.channels * width;
        one.vectors = static_cast<int>(width / kernels.gemm->lanes);
        const std::int64_t end = std::min((chunk + 1) * kChannels, phase.channels);
        for (std::int64_t c = chunk * kChannels; c < end; ++c) {
            one.taps = packed + line * taps + c * width;
            one.points = transformed + line * points + c * width;
            variant.weight(one);
        }
    });
}

// Blocks of tiles, and how many tasks share one where there are few.
void split(ConvPlan& plan, const WinogradVariant<float>& variant, std::int64_t panels) {
    const Correlation& phase = plan.phases[0];
    WinogradPlan& winograd = plan.winograd;
    const std::int64_t tiles = winograd.tiles() * phase.batch;
    if (tiles == 0) return;
    const std::int64_t tile_bytes = variant.points() * (winograd.pitch + 64) * 4;
    const std::int64_t most =
        std::clamp(kBlockBytes / tile_bytes / 6 * 6, kFewestTiles, kMostTiles);
    double best = 0;
    for (std::int64_t size = most; size >= std::min<std::int64_t>(6, most); size -= 6)
        for (std::int64_t parts = 1; parts <= panels; parts *= 2) {
            const std::int64_t blocks = ceil_div(tiles, size);
            const double tasks = static_cast<double>(phase.groups * blocks * parts);
            const double rounds = static_cast<double>(
                ceil_div(phase.groups * blocks * parts, plan.threads));
            // Small blocks read the weights more often; parts transform the input again.
            const double time = rounds * plan.threads / tasks * (1.0 + 2.0 / static_cast<double>(size)) *
                                (1.0 + 0.1 * static_cast<double>(parts - 1));
            if (best != 0 && time >= best * 0.99) continue;
            best = time;
            winograd.blocks = blocks;
            winograd.block_tiles = ceil_div(tiles, blocks);
            winograd.parts = parts;
        }
}

const char* plan_winograd(ConvPlan& plan, int m) {
    const Conv& conv = plan.problem;
    if (conv.dtype != DType::kFloat32) return "winograd: float64 has none (its rounding is larger)";
    if (conv.height.kernel != conv.width.kernel) return "winograd: the kernel is not square";
    for (const Axis* axis : {&conv.height, &conv.width})
        if (axis->stride != 1 || axis->dilation != 1) return "winograd: strided or dilated";
    const Kernels<float>& kernels = plan.isa->kernels<float>();
    const WinogradVariant<float>* variant = nullptr;
    for (int i = 0; i < WinogradKernels<float>::kVariants; ++i) {
        const WinogradVariant<float>& candidate = kernels.winograd->variants[i];
        if (candidate.m != m || candidate.r != conv.height.kernel) continue;
        variant = &candidate;
        plan.winograd.variant = i;
    }
    if (!variant) return m == 2 ? "winograd2: the kernel is neither 3x3 nor 5x5"
                                : "winograd4: the kernel is not 3x3";
    plan.phases.assign(1, plan.direction == Direction::kForward ? forward_phase(plan)
                                                                : grad_input_phase(plan, 0, 0));
    Correlation& phase = plan.phases[0];
    settle(phase);
    phase.gather = phase.source.channel_elems != 1;
    if (phase.channels == 0) return "winograd: there are no channels";
    WinogradPlan& winograd = plan.winograd;
    winograd.m = m;
    winograd.tiles_h = ceil_div(phase.out_h, m);
    winograd.tiles_w = ceil_div(phase.out_w, m);
    winograd.pitch = (ceil_div(phase.channels, kernels.gemm->lanes) + 1) * kernels.gemm->lanes;
    const Panels<float> panels(*kernels.gemm, phase.cols);
    split(plan, *variant, std::max<std::int64_t>(1, panels.count));
    phase.scratch_bytes = layout_of(plan, *variant, panels.width).bytes;
    if (phase.scratch_bytes > kMaxThreadScratch)
        return "winograd: a block of tiles needs more scratch than a thread may have (4 MB)";
    plan.packed_elems = packed_elems<float>(phase, kernels);
    winograd.transformed_elems =
        plan.packed_elems / (variant->r * variant->r) * variant->points();
    plan.workspace_bytes =
        static_cast<std::size_t>(plan.packed_elems + winograd.transformed_elems) * sizeof(float);
    plan.tasks = phase.groups * winograd.blocks * winograd.parts;
    return nullptr;
}

const char* plan_winograd2(ConvPlan& plan) { return plan_winograd(plan, 2); }
const char* plan_winograd4(ConvPlan& plan) { return plan_winograd(plan, 4); }

void run(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    float* memory = static_cast<float*>(workspace);
    float* transformed = memory;
    float* to_pack = memory + plan.winograd.transformed_elems;
    const float* packed = static_cast<const float*>(pointers.packed);
    if (!packed) {
        pack_conv2d(plan, pointers.weight, to_pack);
        packed = to_pack;
    }
    transform_weights(plan, packed, transformed);
    const bool forward = plan.direction == Direction::kForward;
    const Operands operands{
        static_cast<const float*>(forward ? pointers.input : pointers.output), transformed,
        {static_cast<const float*>(pointers.bias), static_cast<const float*>(pointers.residual),
         pointers.relu},
        static_cast<float*>(forward ? pointers.output : pointers.input)};
    parallel_for(plan.tasks, plan.threads, FloatMode::kFlushDenormals,
                 [&](std::int64_t task, int) { TileBlock(plan, operands, task).run(); });
}

}  // namespace

const Candidate conv2d_winograd2{Algorithm::kWinograd2, plan_winograd2, run};
const Candidate conv2d_winograd4{Algorithm::kWinograd4, plan_winograd4, run};

}  // namespace fastconv::cpu

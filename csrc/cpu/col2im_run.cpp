// A band of dx by a product and col2im (cpu/col2im.h):
//
//   strip = bias or zeros             the band's rows of dx, with the columns that padding would add
//   for each block                    rows of grad_output, <= 256 KB of it
//     for each panel                  64 columns (r, s, c) of packed weights
//       for each chunk of positions
//         terms = dy * panel          the register tile (kernels_gemm.h), <= 32 KB, for L1
//         strip += terms              a kernel row's columns lie side by side in both
//   dx = strip
#include <algorithm>

#include "core/parallel.h"
#include "cpu/col2im.h"
#include "cpu/isa.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_gemm.h"
#include "cpu/kernels_outer.h"
#include "cpu/panels.h"

namespace fastconv::cpu {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return a > 0 ? (a + b - 1) / b : -(-a / b);
}

/// Columns of a panel that lie side by side in the strip too.
struct Run {
    std::int64_t col, cols;  // within the panel
    std::int64_t r;          // kernel row
    std::int64_t elem;       // in the strip's line, from the position's first pixel
};

template <class T>
class Band {
public:
    Band(const ConvPlan& plan, const ConvPointers& pointers, const T* packed, std::int64_t task)
        : conv_(plan.problem), cut_(plan.col2im), kernels_(plan.isa->kernels<T>()),
          dy_(plan.strides.output), dx_(plan.strides.input), layout_(col2im_scratch<T>(plan)),
          scratch_(static_cast<char*>(thread_scratch(layout_.bytes))),
          panels_(*kernels_.gemm, conv_.taps() * conv_.group_in()) {
        const std::int64_t band = task % cut_.bands;
        task /= cut_.bands;
        const std::int64_t group = task % conv_.groups, image = task / conv_.groups;
        begin_ = conv_.height.in * band / cut_.bands;
        end_ = conv_.height.in * (band + 1) / cut_.bands;
        weights_ahead_ = conv_.group_out() * panels_.padded_cols > kCachedWeights;
        packed_ = packed + group * conv_.group_out() * panels_.padded_cols;
        source_ = static_cast<const T*>(pointers.output) + image * dy_.batch_elems +
                  group * conv_.group_out() * dy_.channel_elems;
        out_ = static_cast<T*>(pointers.input) + image * dx_.batch_elems +
               group * conv_.group_in() * dx_.channel_elems;
        if (pointers.bias)
            bias_ = static_cast<const T*>(pointers.bias) + group * conv_.group_in();
    }

    void run() {
        start_strip();
        const Rows rows = rows_that_meet(0, conv_.height.kernel - 1);
        for (std::int64_t p = rows.begin / cut_.block_h * cut_.block_h; p < rows.end;
             p += cut_.block_h) {
            const Rows block{std::max(p, rows.begin), std::min(p + cut_.block_h, rows.end)};
            if (block.begin >= block.end) continue;
            point_into_block(block);
            for (std::int64_t panel = 0; panel < panels_.count; ++panel) run_panel(panel, block);
        }
        write();
    }

private:
    struct Rows {
        std::int64_t begin, end;
    };

    template <class U>
    U* at(std::size_t offset) const { return reinterpret_cast<U*>(scratch_ + offset); }

    std::int64_t channels() const { return conv_.group_in(); }
    std::int64_t line_elems() const { return cut_.strip_w * channels(); }

    void start_strip() const {
        T* strip = at<T>(layout_.strip);
        const std::int64_t line = line_elems();
        if (!bias_) {
            std::fill_n(strip, (end_ - begin_) * line, T(0));
            return;
        }
        for (std::int64_t i = 0; i < line; i += channels()) std::copy_n(bias_, channels(), strip + i);
        for (std::int64_t h = 1; h < end_ - begin_; ++h) std::copy_n(strip, line, strip + h * line);
    }

    // Rows p of grad_output that kernel rows [r_first, r_last] take into the band.
    Rows rows_that_meet(std::int64_t r_first, std::int64_t r_last) const {
        const Axis& h = conv_.height;
        return {std::max<std::int64_t>(0, ceil_div(begin_ + h.pad_lo - r_last * h.dilation, h.stride)),
                std::min(h.out, ceil_div(end_ + h.pad_lo - r_first * h.dilation, h.stride))};
    }

    void point_into_block(const Rows& block) {
        const bool in_place = dy_.channel_elems == 1 || conv_.group_out() == 1;
        const std::int64_t out_w = conv_.width.out, depth = conv_.group_out();
        block_begin_ = block.begin;
        block_positions_ = (block.end - block.begin) * out_w;
        const T** pointer = at<const T*>(layout_.pointers);
        T* gathered = at<T>(layout_.gathered);
        for (std::int64_t p = block.begin; p < block.end; ++p) {
            const T* line = source_ + p * dy_.height_elems;
            if (!in_place) {
                kernels_.copy->copy(out_w, depth, {line, dy_.width_elems, dy_.channel_elems},
                                    {gathered, depth, 1});
                line = gathered;
                gathered += out_w * depth;
            }
            const std::int64_t step = in_place ? dy_.width_elems : depth;
            for (std::int64_t q = 0; q < out_w; ++q) *pointer++ = line + q * step;
        }
    }

    // With dilation a run is one tap's channels, else a kernel row.
    int find_runs(std::int64_t panel, Run* runs) const {
        const std::int64_t kernel_row = conv_.width.kernel * channels();
        const std::int64_t most = conv_.width.dilation == 1 ? kernel_row : channels();
        const std::int64_t first = panels_.first_col(panel), cols = panels_.panel_cols(panel);
        int count = 0;
        for (std::int64_t col = 0; col < cols;) {
            const std::int64_t inside = (first + col) % kernel_row, begin = inside % most;
            Run& run = runs[count++];
            run.col = col;
            run.cols = std::min(most - begin, cols - col);
            run.r = (first + col) / kernel_row;
            run.elem = inside / most * conv_.width.dilation * channels() + begin;
            col += run.cols;
        }
        return count;
    }

    void run_panel(std::int64_t panel, const Rows& block) {
        Run runs[GemmKernels<T>::kMaxVectors * kMostLanes];
        const int count = find_runs(panel, runs);
        const Rows meeting = rows_that_meet(runs[0].r, runs[count - 1].r);
        const Rows rows{std::max(block.begin, meeting.begin), std::min(block.end, meeting.end)};
        if (rows.begin >= rows.end) return;
        const std::int64_t out_w = conv_.width.out;
        for (std::int64_t p = rows.begin / cut_.chunk_h * cut_.chunk_h; p < rows.end;
             p += cut_.chunk_h) {
            const Rows chunk{std::max(p, rows.begin), std::min(p + cut_.chunk_h, rows.end)};
            for (std::int64_t piece = 0; piece < cut_.chunks_w; ++piece) {
                const std::int64_t q = out_w * piece / cut_.chunks_w;
                const std::int64_t next = out_w * (piece + 1) / cut_.chunks_w;
                multiply(panel, (chunk.begin - block_begin_) * out_w + q,
                         (chunk.end - chunk.begin) * (next - q));
                for (int i = 0; i < count; ++i) add(panel, runs[i], chunk, q, next);
            }
        }
    }

    // terms[position][column], for the positions of the block from `first` on.
    void multiply(std::int64_t panel, std::int64_t first, std::int64_t positions) const {
        const std::int64_t width = panels_.panel_width(panel, kernels_.gemm->lanes);
        const std::int64_t depth = conv_.group_out();
        const int vectors = static_cast<int>(width / kernels_.gemm->lanes);
        const std::int64_t tiles = ceil_div(positions, kernels_.gemm->max_rows[vectors]);
        GemmTile<T> tile;
        tile.ahead_near = fetches_near();
        tile.row_pitch = positions;
        tile.segments = 1;
        tile.last = false;
        for (std::int64_t d = 0; d < depth; d += cut_.depth_block) {
            tile.depth = std::min(cut_.depth_block, depth - d);
            tile.row_offset = d;
            tile.first = d == 0;
            tile.panel = packed_ + panels_.first_col(panel) * depth + d * width;
            for (std::int64_t t = 0, row = 0; t < tiles; ++t) {
                const std::int64_t next = positions * (t + 1) / tiles;
                tile.rows = at<const T*>(layout_.pointers) + first + row;
                tile.sum = at<T>(layout_.terms) + row * width;
                if (d == 0 && panel == 0) fetch_positions(first + next, next - row);
                if (weights_ahead_)
                    fetch_ahead(tile, tile.panel + tile.depth * width, width, t, tiles);
                kernels_.gemm->tile[vectors][next - row](tile);
                row = next;
            }
        }
    }

    // The first panel meets grad_output in memory or L3: ask for the positions of the next tile while this
    // one is multiplied.
    void fetch_positions(std::int64_t first, std::int64_t count) const {
        constexpr std::int64_t kCacheLine = 64 / static_cast<std::int64_t>(sizeof(T));
        const T* const* pointers = at<const T*>(layout_.pointers);
        const std::int64_t end = std::min(first + count, block_positions_);
        for (std::int64_t i = first; i < end; ++i)
            for (std::int64_t k = 0; k < conv_.group_out(); k += kCacheLine)
                __builtin_prefetch(pointers[i] + k, 0, 2);
    }

    // Positions that overlap in the strip are kept apart by the lines between them; where a chunk has but
    // few, every second, third ... position is added, then those between. (Whole vectors apart: a masked
    // store delays loads of the lanes that it leaves alone, too.)
    void add(std::int64_t panel, const Run& run, const Rows& chunk, std::int64_t q,
             std::int64_t next) const {
        const Rows meeting = rows_that_meet(run.r, run.r);
        const Rows rows{std::max(chunk.begin, meeting.begin), std::min(chunk.end, meeting.end)};
        if (rows.begin >= rows.end) return;
        const std::int64_t width = panels_.panel_width(panel, kernels_.gemm->lanes);
        const std::int64_t step = conv_.width.stride * channels(), lanes = kernels_.gemm->lanes;
        const std::int64_t apart =
            cut_.chunk_h >= kLinesApart
                ? 1 : std::min(ceil_div(ceil_div(run.cols, lanes) * lanes, step), next - q);
        const std::int64_t h = rows.begin * conv_.height.stride + run.r * conv_.height.dilation -
                               conv_.height.pad_lo;
        const T* terms =
            at<T>(layout_.terms) + (rows.begin - chunk.begin) * (next - q) * width + run.col;
        T* line = at<T>(layout_.strip) + (h - begin_) * line_elems() + q * step + run.elem;
        for (std::int64_t i = 0; i < apart; ++i)
            kernels_.outer->spread({rows.end - rows.begin, ceil_div(next - q - i, apart), run.cols,
                                    terms + i * width, (next - q) * width, apart * width,
                                    line + i * step, conv_.height.stride * line_elems(),
                                    apart * step});
    }

    void write() const {
        const std::int64_t width = conv_.width.in, depth = channels();
        const T* strip = at<T>(layout_.strip) + conv_.width.pad_lo * depth;
        const bool lines = (dx_.channel_elems == 1 || depth == 1) && dx_.width_elems == depth;
        for (std::int64_t h = begin_; h < end_; ++h, strip += line_elems()) {
            T* to = out_ + h * dx_.height_elems;
            if (lines)
                kernels_.copy->copy(1, width * depth, {strip, 0, 1}, {to, 0, 1});
            else
                kernels_.copy->copy(width, depth, {strip, depth, 1},
                                    {to, dx_.width_elems, dx_.channel_elems});
        }
    }

    static constexpr int kMostLanes = 16;
    static constexpr std::int64_t kCachedWeights = 64 << 10;  // elements that stay in L2
    static constexpr std::int64_t kLinesApart = 6;

    const Conv& conv_;
    const Col2imBlocking& cut_;
    const Kernels<T>& kernels_;
    const Strides &dy_, &dx_;
    Col2imScratch layout_;
    char* scratch_;
    Panels<T> panels_;
    const T* packed_;
    const T* source_;
    T* out_;
    const T* bias_ = nullptr;
    bool weights_ahead_;
    std::int64_t begin_, end_, block_begin_ = 0, block_positions_ = 0;
};

}  // namespace

template <class T>
void run_col2im_band(const ConvPlan& plan, const ConvPointers& pointers, const T* packed,
                     std::int64_t task) {
    Band<T>(plan, pointers, packed, task).run();
}

template void run_col2im_band(const ConvPlan&, const ConvPointers&, const float*, std::int64_t);
template void run_col2im_band(const ConvPlan&, const ConvPointers&, const double*, std::int64_t);

}  // namespace fastconv::cpu

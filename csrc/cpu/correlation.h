// The implicit-GEMM core: blocking, packing and the loop nest that every dense convolution shares.
#pragma once

#include <algorithm>

#include "core/plan.h"
#include "cpu/kernels.h"
#include "cpu/kernels_gemm.h"

namespace fastconv::cpu {

/// Who packs the panels: nobody any more, all threads before the tasks, or each task its own.
enum class Packing { kAhead, kAllOrTask, kTask };

/// Sets the blocking of `phase` and the tasks' split for `threads`. With kTask, for which staging_elems is 0,
/// all threads pack only where a task's scratch has no room, by shape alone. Returns false where even one output position needs more
/// scratch than a thread may have.
template <class T>
bool block_correlation(Correlation& phase, const Kernels<T>& kernels, int threads, Packing packing);

/// Cuts the depth into segments and blocks: from the shape alone.
void choose_segments(Correlation& phase);

/// Blocks of about `rows` positions, cut evenly: some whole images, or a part of one.
void choose_block(Correlation& phase, std::int64_t rows);

/// Of the products of all taps at all positions those that the register tile computes: it leaves out what
/// lies in the padding for all positions of a tile.
double products_share(const Correlation& phase, const Kernels<float>& kernels);

/// Where a task's scratch has what, in bytes from its beginning.
struct ScratchLayout {
    std::size_t pointers = 0;  // (segments, rows) pointers into the source or the strip; with merge (rows)
    std::size_t out_pointers = 0;
    std::size_t residual_pointers = 0;
    std::size_t sum = 0;       // (rows, panel width); split (panels, rows, panel width)
    std::size_t residual = 0;  // (rows, panel width), where the residual's channels are strided
    std::size_t order = 0, ends = 0, moved = 0;  // of order_positions(), and pointers being moved
    std::size_t panel = 0, staging = 0;  // of pack_panel(), with pack_by_task
    std::size_t split_rows = 0, split_lines = 0, split_raw = 0, split_fresh = 0, split_raw_columns = 0;  // cpu/correlation_split.h
    std::size_t strip = 0;     // (block_n, strip_h, strip_w, channels), or one line of zeros: (channels)
    std::int64_t strip_h = 0;
    std::int64_t strip_w = 0;
    std::size_t bytes = 0;
};

template <class T>
ScratchLayout scratch_layout(const Correlation& phase, const Kernels<T>& kernels);

/// Elements of `phase`'s packed weights: all groups, columns padded to whole panels.
template <class T>
std::int64_t packed_elems(const Correlation& phase, const Kernels<T>& kernels);

/// The weight as a phase sees it: element (tap row r, tap column s, channel c, column k) of a group.
template <class T>
struct WeightView {
    const T* data = nullptr;
    std::int64_t group_elems = 0;
    std::int64_t row_elems = 0;      // r
    std::int64_t tap_elems = 0;      // s
    std::int64_t channel_elems = 0;  // c, the depth
    std::int64_t col_elems = 0;      // k
};

template <class T>
WeightView<T> weight_view(const ConvPlan& plan, const void* weight) {
    const Strides& w = plan.strides.weight;
    const bool forward = plan.direction == Direction::kForward;
    return {static_cast<const T*>(weight),
            plan.problem.group_out() * w.batch_elems,
            w.height_elems,
            w.width_elems,
            forward ? w.channel_elems : w.batch_elems,
            forward ? w.batch_elems : w.channel_elems};
}

/// Some channels of some taps and columns, `width` with padding, and where their packed lines go: that of
/// the piece's tap t and channel c to `to` + t * tap_elems + c * width.
template <class T>
struct PanelPiece {
    std::int64_t group = 0, col = 0, cols = 0, width = 0;
    std::int64_t channel = 0, channels = 0;
    std::int64_t tap = 0, taps = 0;  // 0: all
    T* to = nullptr;
    std::int64_t tap_elems = 0;
};

/// Elements of `staged` that pack_panel() needs.
template <class T>
std::int64_t pack_staging_elems(const Correlation& phase, const Kernels<T>& kernels,
                                const WeightView<T>& weight);

/// Without `staged`, where it asks for some, each tap is gathered by itself, which is slower.
template <class T>
void pack_panel(const Correlation& phase, const Kernels<T>& kernels, const WeightView<T>& weight,
                const PanelPiece<T>& piece, T* staged);

/// Lines [first, first + lines) of a group's columns, the taps' channels in turn, to piece.to.
template <class T>
void pack_lines(const Correlation& phase, const Kernels<T>& kernels, const WeightView<T>& weight,
                PanelPiece<T> piece, std::int64_t first, std::int64_t lines);

/// Whether tasks pack a depth block at a time: taps that need `staged` come apart only together, and merged
/// panels are small unless merging is due to strided channels.
inline bool packs_by_block(const Correlation& phase) {
    constexpr std::int64_t kMostLinesAtOnce = 5 << 10;  // 1.25 MB in 64 columns
    return phase.pack_by_task && phase.staging_elems == 0 &&
           (!phase.merge || phase.segments * phase.depth > kMostLinesAtOnce);
}

/// How the weights of a piece, which will be packed next, lie in memory.
template <class T>
struct PieceLines {
    const T* first = nullptr;  // null: fetching them does not pay
    std::int64_t cols = 0;
    bool by_channel = false;    // a line has the columns of a channel, else the elements of a column
    std::int64_t length = 0;    // of a line
    std::int64_t step = 0;      // from one line to the next
    std::int64_t tap_step = 0;  // by_channel: from one tap to the next
};

template <class T>
PieceLines<T> lines_of(const Correlation& phase, const WeightView<T>& weight,
                       const PanelPiece<T>& piece);

/// Tile `t` of `tiles` over one panel block fetches its share of those lines.
template <class T>
void fetch_ahead(GemmTile<T>& tile, const PieceLines<T>& lines, std::int64_t t, std::int64_t tiles) {
    constexpr std::int64_t kCacheLine = 64 / static_cast<std::int64_t>(sizeof(T));
    tile.ahead = nullptr;
    tile.ahead_second = 0;
    if (!lines.first) return;
    if (lines.by_channel) {
        if (t * kCacheLine >= lines.length) return;
        tile.ahead = lines.first + t * kCacheLine;
        tile.ahead_step = lines.step;
        tile.ahead_run = tile.depth;
        tile.ahead_jump = lines.tap_step;
    } else if (lines.step == lines.length) {
        fetch_ahead(tile, lines.first, lines.cols, t, tiles);
    } else {
        const std::int64_t begin = lines.cols * t / tiles, end = lines.cols * (t + 1) / tiles;
        if (begin == end) return;
        const std::int64_t runs = std::max<std::int64_t>(1, (end - begin) / tile.segments);
        tile.ahead = lines.first + begin * lines.step;
        tile.ahead_run = std::max<std::int64_t>(2, tile.depth / runs / 2 * 2);
        tile.ahead_step = (lines.length + tile.ahead_run - 1) / tile.ahead_run;
        tile.ahead_jump = lines.step;
    }
}

/// Packs the weights of `phase`: (group, panel of columns, tap, channel, column in panel).
template <class T>
void pack_correlation(const Correlation& phase, const Kernels<T>& kernels,
                      const WeightView<T>& weight, T* packed, int threads);

/// Pixels without gaps, each read for one tap. The first panel of a task fetches the source of each next tile,
/// which then is one stretch of memory: one thread of a Xeon, activations out of L2, 1x1 256 -> 64 on 56x56 107 ->
/// 165 GFLOP/s, 512 -> 128 on 28x28 150 -> 180. Of a stride of 2 pixel by pixel: a Zen 4, two threads, 256 -> 128
/// on 56x56 182 -> 197 GFLOP/s.
inline bool source_is_dense(const Correlation& phase) {
    return phase.segments == 1 && !phase.gather &&
           phase.source.width_elems * phase.taps_w.step == phase.channels;
}

/// What a correlation adds to the product.
template <class T>
struct Epilogue {
    const T* bias = nullptr;  // (groups * cols), unit stride
    const T* residual = nullptr;
    bool relu = false;
};

/// The weights of all phases: packed, each phase's from its packed_first_elems on, or as they are for
/// phases whose tasks pack them.
template <class T>
struct CorrelationWeights {
    const T* packed = nullptr;
    bool packed_ahead = true;  // those of pack_by_task phases too
    WeightView<T> view{};
};

template <class T>
void run_correlations(const std::vector<Correlation>& phases, const Kernels<T>& kernels,
                      const T* source, const CorrelationWeights<T>& weights,
                      const Epilogue<T>& epilogue, T* out, int threads);

}  // namespace fastconv::cpu

// The loop nest of the implicit GEMM. A task is a block of output positions, a part of an image or some
// whole ones, in one group, and some of the column panels:
//
//   pointers   one for every (segment, position): into the source, its zero-padded strip, or zeros
//   for each panel                    64 columns of packed weights, streamed from L2/L3
//     for each depth block            <= 768 terms, 192 KB of panel: stays in L2; or packed here, from
//                                     lines that the tiles of the block before have fetched
//       for each tile of rows         the register tile: kernels_gemm.h
//
// Any strides work. Channels-last operands are read and written in place; a source with strided
// channels is copied a strip at a time (`gather`), an output with strided channels leaves through
// the tile of sums. No tensor is ever copied whole.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/correlation.h"
#include "cpu/correlation_output.h"
#include "cpu/correlation_split.h"
#include "cpu/isa.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_gemm.h"
#include "cpu/panels.h"

namespace fastconv::cpu {
namespace {

// Of the first panel's tiles the last so many fetch weights, those before them fetch the source.
constexpr std::int64_t kTilesThatFetchWeights = 4;
constexpr std::int64_t kFetchedDepth = 96;  // of pixels with gaps between them

template <class T>
struct Operands {
    const T* source;
    CorrelationWeights<T> weights;
    Epilogue<T> epilogue;
    T* out;
};

template <class T>
class BlockTask : BlockOutput<T> {
    using Base = BlockOutput<T>;
    using Base::phase_, Base::layout_, Base::stretches_, Base::part_, Base::group_, Base::image_,
        Base::rows_, Base::kernels_;

public:
    BlockTask(const Correlation& phase, const Kernels<T>& kernels, const Operands<T>& operands,
              std::int64_t task)
        : Base(phase, kernels, operands.epilogue, operands.out, task), operands_(operands),
          panels_(*kernels.gemm, phase.cols) {}

    void run() {
        this->order_block();
        if (phase_.gather) {
            this->gather_strips(*kernels_.copy, source_image());
            this->point_into_strips();
        } else {
            this->point_into_source(source_image());
        }
        if (packs()) {
            panels_ = Panels<T>::of_part(*kernels_.gemm, phase_.cols, part_, phase_.parts);
            end_panel_ = panels_.count;
        } else {
            first_panel_ = panels_.count * part_ / phase_.parts;
            end_panel_ = panels_.count * (part_ + 1) / phase_.parts;
        }
        for (std::int64_t panel = first_panel_; panel < end_panel_; ++panel) run_panel(panel);
    }

private:
    const T* source_image() const {
        return operands_.source + image_ * phase_.source.batch_elems +
               group_ * phase_.source_group_elems;
    }

    void run_panel(std::int64_t panel) {
        const std::int64_t width = panels_.panel_width(panel, kernels_.gemm->lanes);
        const std::int64_t cols = panels_.panel_cols(panel);
        const std::int64_t col = panels_.first_col(panel);
        T* sum = this->template at<T>(layout_.sum);

        GemmTile<T> tile;
        tile.ahead_near = fetches_near();
        tile.own_out = fetches_near() && phase_.out.channel_elems == 1;
        tile.row_pitch = phase_.merge ? 0 : rows_;
        if (phase_.merge)
            tile.segment_elems = phase_.taps_h.offset_step * layout_.strip_w * phase_.channels;
        if (!phase_.gather && phase_.segments > 1) tile.zeros = this->template at<T>(layout_.strip);
        const typename Base::PanelColumns columns{col, cols, width, panel == first_panel_};
        this->point_out(tile, columns, sum);
        if (phase_.segments * phase_.depth == 0) {
            tile.segments = 0;
            run_tiles(tile, {panel});
        } else {
            run_blocks(tile, panel);
        }
        this->move_out(columns, sum);
    }

    /// A depth block of a panel, by its first segment and element.
    struct Block {
        std::int64_t panel, segment = 0, elem = 0;
    };

    void run_blocks(GemmTile<T>& tile, std::int64_t panel) const {
        const std::int64_t width = panels_.panel_width(panel, kernels_.gemm->lanes);
        const T* packed = packs() ? this->template at<T>(layout_.panel) : packed_panel(panel);
        const bool at_once = packs() && !packs_by_block(phase_);  // taps that lie mixed
        if (at_once) pack(all_of(panel));
        for (std::int64_t s = 0; s < phase_.segments; s += phase_.segments_per_block)
            for (std::int64_t d = 0; d < phase_.depth; d += phase_.depth_per_block) {
                const Block block{panel, s, d};
                tile.segments = std::min(phase_.segments_per_block, phase_.segments - s);
                tile.depth = std::min(phase_.depth_per_block, phase_.depth - d);
                tile.row_offset = s * tile.segment_elems + d;
                tile.panel = packed;
                if (packs() && !at_once) pack(block, tile.segments * tile.depth);
                else tile.panel += (s * phase_.depth + d) * width;
                tile.first = s == 0 && d == 0;
                tile.last = s + tile.segments == phase_.segments && d + tile.depth == phase_.depth;
                run_tiles(tile, block);
            }
    }

    bool packs() const { return phase_.pack_by_task && !operands_.weights.packed_ahead; }

    const T* packed_panel(std::int64_t panel) const {
        return operands_.weights.packed + phase_.packed_first_elems +
               (group_ * panels_.padded_cols + panels_.first_col(panel)) * phase_.segments *
                   phase_.depth;
    }

    PanelPiece<T> all_of(std::int64_t panel) const {
        const std::int64_t width = panels_.panel_width(panel, kernels_.gemm->lanes);
        PanelPiece<T> piece{group_, panels_.first_col(panel), panels_.panel_cols(panel), width};
        piece.channels = phase_.channels;
        piece.to = this->template at<T>(layout_.panel);
        piece.tap_elems = phase_.channels * width;
        return piece;
    }

    // Not merged, segments are taps.
    PanelPiece<T> piece_of(const Block& block) const {
        PanelPiece<T> piece = all_of(block.panel);
        piece.channel = block.elem;
        piece.channels = std::min(phase_.depth_per_block, phase_.depth - block.elem);
        piece.tap = block.segment;
        piece.taps = std::min(phase_.segments_per_block, phase_.segments - block.segment);
        piece.tap_elems = piece.channels * piece.width;
        return piece;
    }

    void pack(const Block& block, std::int64_t lines) const {
        if (!phase_.merge) return pack(piece_of(block));
        pack_lines(phase_, kernels_, operands_.weights.view, all_of(block.panel),
                   block.segment * phase_.depth + block.elem, lines);
    }

    void pack(const PanelPiece<T>& piece) const {
        T* const staged =
            phase_.staging_elems > 0 ? this->template at<T>(layout_.staging) : nullptr;
        pack_panel(phase_, kernels_, operands_.weights.view, piece, staged);
    }

    Block after(Block block) const {
        block.elem += phase_.depth_per_block;
        if (block.elem < phase_.depth) return block;
        block = {block.panel, block.segment + phase_.segments_per_block};
        return block.segment < phase_.segments ? block : Block{block.panel + 1};
    }

    // The weights of the block after this one, packed or as they are.
    PieceLines<T> next_lines(const GemmTile<T>& tile, const Block& block, std::int64_t width) const {
        const Block next = after(block);
        const std::int64_t length = tile.segments * tile.depth;
        // Few channels have few weights.
        if (length == 0 || next.panel == end_panel_ || phase_.merge) return {};
        if (!packs()) return {tile.panel + length * width, width, false, length, length, 0};
        if (!packs_by_block(phase_)) return {};
        return lines_of(phase_, operands_.weights.view, piece_of(next));
    }

    // The rows of the next tile: one stretch of memory, or pixels with gaps between them.
    void fetch_source(GemmTile<T>& tile, const T* first, std::int64_t rows) const {
        const bool dense = source_is_dense(phase_);
        tile.ahead = first;
        tile.ahead_run = dense ? tile.depth : std::max<std::int64_t>(2, tile.depth / rows / 2 * 2);
        tile.ahead_step = dense ? rows : (tile.depth + tile.ahead_run - 1) / tile.ahead_run;
        tile.ahead_jump = phase_.source.width_elems * phase_.taps_w.step;
        tile.ahead_second = 0;
    }

    // Tiles of nearly equal heights: 49 rows are 5 x 5 + 4 x 6, not 8 x 6 + 1.
    void run_tiles(GemmTile<T>& tile, const Block& block) const {
        const std::int64_t width = panels_.panel_width(block.panel, kernels_.gemm->lanes);
        const int vectors = static_cast<int>(width / kernels_.gemm->lanes);
        const std::int64_t most = kernels_.gemm->max_rows[vectors];
        const std::int32_t* ends = this->template at<std::int32_t>(layout_.ends);
        const auto tiles_of = [&](std::int64_t s) {
            return (ends[s] - (s > 0 ? ends[s - 1] : 0) + most - 1) / most;
        };
        std::int64_t tiles = 0;
        for (std::int64_t s = 0; s < stretches_; ++s) tiles += tiles_of(s);
        const T* const* pointers =
            this->template at<const T*>(layout_.pointers) + block.segment * tile.row_pitch;
        T* const* out = tile.out;
        const T* const* residual = tile.residual;
        T* sum = tile.sum;
        // Pixels with gaps one after the other: too short ones are not worth it.
        const bool fetches = source_is_dense(phase_) ||
                             (phase_.segments == 1 && !phase_.gather && tile.depth >= kFetchedDepth);
        const bool cold_source = block.panel == first_panel_ && fetches;
        const std::int64_t weight_tiles =
            cold_source ? std::min<std::int64_t>(tiles, kTilesThatFetchWeights) : tiles;
        const PieceLines<T> lines = next_lines(tile, block, width);
        std::int64_t number = 0, row = 0;
        for (std::int64_t s = 0, begin = 0; s < stretches_; begin = ends[s], ++s) {
            const std::int64_t count = tiles_of(s), size = ends[s] - begin;
            for (std::int64_t t = 0; t < count; ++t, ++number) {
                const std::int64_t next = begin + size * (t + 1) / count;
                tile.rows = pointers + row;
                tile.sum = sum + row * width;
                tile.out = out + row;
                tile.residual = residual ? residual + row : nullptr;
                if (cold_source && number + weight_tiles < tiles) {
                    fetch_source(tile, pointers[next] + tile.row_offset, next - row);
                } else {
                    fetch_ahead(tile, lines, number % weight_tiles, weight_tiles);
                }
                kernels_.gemm->tile[vectors][next - row](tile);
                row = next;
            }
        }
        tile.sum = sum;
        tile.out = out;
        tile.residual = residual;
    }

    const Operands<T>& operands_;
    Panels<T> panels_;
    std::int64_t first_panel_ = 0, end_panel_ = 0;
};

void run_split(const Correlation& phase, const Kernels<float>& kernels, const Operands<float>& operands,
               std::int64_t task) {
    const CorrelationWeights<float>& weights = operands.weights;
    const bool packs = phase.pack_by_task && !weights.packed_ahead;
    const char* packed = reinterpret_cast<const char*>(weights.packed + phase.packed_first_elems);
    run_split_task(phase, kernels,
                   {operands.source, packs ? nullptr : packed, &weights.view, operands.epilogue, operands.out},
                   task);
}

}  // namespace

template <class T>
void run_correlations(const std::vector<Correlation>& phases, const Kernels<T>& kernels,
                      const T* source, const CorrelationWeights<T>& weights,
                      const Epilogue<T>& epilogue, T* out, int threads) {
    const Operands<T> operands{source, weights, epilogue, out};
    std::int64_t tasks = 0;
    for (const Correlation& phase : phases) tasks += phase.tasks();
    const FloatMode mode = sizeof(T) == 4 ? FloatMode::kFlushDenormals : FloatMode::kIeee;
    parallel_for(tasks, threads, mode, [&](std::int64_t task, int) {
        std::size_t p = 0;
        for (; task >= phases[p].tasks(); ++p) task -= phases[p].tasks();
        if constexpr (sizeof(T) == 4)
            if (phases[p].split)
                return run_split(phases[p], kernels, operands, task);
        BlockTask<T>(phases[p], kernels, operands, task).run();
    });
}

template void run_correlations(const std::vector<Correlation>&, const Kernels<float>&, const float*,
                               const CorrelationWeights<float>&, const Epilogue<float>&, float*, int);
template void run_correlations(const std::vector<Correlation>&, const Kernels<double>&,
                               const double*, const CorrelationWeights<double>&,
                               const Epilogue<double>&, double*, int);

}  // namespace fastconv::cpu

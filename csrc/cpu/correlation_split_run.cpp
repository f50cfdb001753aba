// The loop nest of the implicit GEMM on matrix tiles. A task is a block of output positions in one group,
// and some of the column panels:
//
//   pointers   as in cpu/correlation_run.cpp
//   for each depth block                          <= 512 elements
//     for each 32 rows, for each panel of 32 columns, or the other way about
//       matrix tiles (kernels_split.h), and meanwhile
//         the next 32 rows are split              96 KB at most
//         the results of the product before go out, with bias, residual and ReLU
//         weights of the next panel, or rows to be split next, are fetched
//
// Panels outside where the weights are more than L2 has room for: then each is read from L3 once a task. And
// where results do not go out in place: then each panel's lists are its own.
#include <algorithm>
#include <cstring>

#include "cpu/correlation_output.h"
#include "cpu/correlation_split.h"

namespace fastconv::cpu {
namespace {

class SplitTask : BlockOutput<float> {
public:
    SplitTask(const Correlation& phase, const Kernels<float>& kernels, const SplitOperands& operands,
              std::int64_t task)
        : BlockOutput<float>(phase, kernels, operands.epilogue, operands.out, task),
          operands_(operands), steps_(split_steps(phase)),
          first_panel_(split_panels(phase) * part_ / phase.parts),
          panels_(split_panels(phase) * (part_ + 1) / phase.parts - first_panel_),
          chunks_(ceil_div(rows_, kSplitRows)) {
        in_place_ = phase.out.channel_elems == 1 &&
                    (!operands.epilogue.residual || phase.residual.channel_elems == 1);
    }

    void run() {
        const float* image = operands_.source + image_ * phase_.source.batch_elems +
                             group_ * phase_.source_group_elems;
        if (phase_.gather) {
            gather_strips(*kernels_.copy, image);
            point_into_strips();
        } else {
            point_into_source(image);
        }
        for (begin_ = 0; begin_ < steps_; begin_ += phase_.split_steps_per_block) {
            count_ = std::min(phase_.split_steps_per_block, steps_ - begin_);
            split(0);
            if (packs() && phase_.split_rows_first)
                for (std::int64_t panel = 0; panel < panels_; ++panel) pack(panel);
            if (phase_.split_rows_first) rows_first();
            else panels_first();
        }
        deliver();
        kernels_.split->release();
    }

private:
    void rows_first() {
        for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
            SplitRows next;
            if (chunk + 1 < chunks_) begin_split(chunk + 1, next);
            for (std::int64_t panel = 0; panel < panels_; ++panel) {
                SplitProduct product = product_of(chunk, panel);
                share(next, panel, panels_, product);
                if (source_is_dense(phase_)) fetch_rows(chunk + 2, panel, product);
                multiply(product, chunk, panel);
            }
            if (chunk + 1 < chunks_) end_split(chunk + 1, next);
        }
    }

    void panels_first() {
        for (std::int64_t panel = 0; panel < panels_; ++panel) {
            if (packs()) pack(panel);
            for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
                SplitProduct product = product_of(chunk, panel);
                SplitRows next;
                const bool splits = panel == 0 && chunk + 1 < chunks_;
                if (splits) begin_split(chunk + 1, next);
                share(next, 0, 1, product);
                fetch_columns(chunk, panel, product);
                multiply(product, chunk, panel);
                if (splits) end_split(chunk + 1, next);
            }
            if (in_place_ || !is_last()) continue;
            deliver();
            move_out(columns_of(panel), sums(panel));
        }
    }

    // ---- rows ------------------------------------------------------------------------------------

    char* row_tiles(std::int64_t chunk) const {
        return at<char>(layout_.split_rows) +
               chunk % split_kept_chunks(phase_) * split_chunk_bytes(phase_);
    }
    std::uint32_t& raw_rows(std::int64_t chunk) const {
        return at<std::uint32_t>(layout_.split_raw)[chunk % split_kept_chunks(phase_)];
    }
    std::int64_t rows_of(std::int64_t chunk) const {
        return std::min(kSplitRows, rows_ - chunk * kSplitRows);
    }

    // Pointers of the positions for a segment, and what is to be added to them.
    const float* const* segment_rows(std::int64_t segment) const {
        return at<const float*>(layout_.pointers) + (phase_.merge ? 0 : segment * rows_);
    }
    std::int64_t segment_offset(std::int64_t segment) const {
        return phase_.merge ? segment * phase_.taps_h.offset_step * layout_.strip_w * phase_.channels : 0;
    }

    void split(std::int64_t chunk) {
        SplitRows rows;
        begin_split(chunk, rows);
        kernels_.split->rows(rows, 0, rows.units());
        end_split(chunk, rows);
    }

    void begin_split(std::int64_t chunk, SplitRows& rows) {
        rows.count = rows_of(chunk);
        rows.tiles = row_tiles(chunk);
        rows.row_tile_bytes = split_chunk_bytes(phase_) / 2;
        const std::int64_t row = chunk * kSplitRows;
        if (!split_whole_steps(phase_)) return copy_rows(row, rows);
        const std::int64_t segment_steps = phase_.depth / kSplitStep;
        for (std::int64_t step = begin_, end = begin_ + count_; step < end;) {
            const std::int64_t segment = step / segment_steps, within = step % segment_steps;
            const std::int64_t some = std::min(segment_steps - within, end - step);
            rows.runs[rows.run_count++] = {segment_rows(segment) + row,
                                           segment_offset(segment) + within * kSplitStep, step - begin_,
                                           some};
            step += some;
        }
    }

    void end_split(std::int64_t chunk, const SplitRows& rows) const {
        raw_rows(chunk) = rows.raw;
        for (std::int64_t r = 0; r < rows.count; ++r)
            if ((rows.raw >> r & 1) != 0)
                copy_raw(chunk * kSplitRows + r,
                         rows.tiles + r / kSplitLines * rows.row_tile_bytes + r % kSplitLines * 64);
    }

    void copy_rows(std::int64_t row, SplitRows& rows) {
        float* lines = at<float>(layout_.split_lines);
        const std::int64_t length = count_ * kSplitStep;
        for (std::int64_t r = 0; r < rows.count; ++r) {
            copied_[r] = lines + r * length;
            copy_elements(row + r, begin_, count_, lines + r * length);
        }
        rows.runs[rows.run_count++] = {copied_, 0, 0, count_};
    }

    // Elements of some steps of one row, in one run, with zeros behind the last.
    void copy_elements(std::int64_t row, std::int64_t step, std::int64_t steps, float* to) const {
        const std::int64_t depth = phase_.segments * phase_.depth;
        const std::int64_t last = std::min(depth, (step + steps) * kSplitStep);
        std::int64_t elem = step * kSplitStep;
        while (elem < last) {
            const std::int64_t segment = elem / phase_.depth, within = elem % phase_.depth;
            const std::int64_t some = std::min(phase_.depth - within, last - elem);
            std::memcpy(to, segment_rows(segment)[row] + segment_offset(segment) + within,
                        static_cast<std::size_t>(some) * sizeof(float));
            to += some;
            elem += some;
        }
        std::fill(to, to + ((step + steps) * kSplitStep - last), 0.0f);
    }

    void copy_raw(std::int64_t row, char* line) const {
        constexpr std::size_t kHalf = kSplitStep / 2 * sizeof(float);
        for (std::int64_t step = begin_; step < begin_ + count_; ++step, line += kSplitTileBytes) {
            float elements[kSplitStep];
            copy_elements(row, step, 1, elements);
            std::memcpy(line, elements, kHalf);
            std::memcpy(line + kSplitPartBytes, elements + kSplitStep / 2, kHalf);
        }
    }

    // ---- products --------------------------------------------------------------------------------

    bool is_last() const { return begin_ + count_ == steps_; }
    bool packs() const { return !operands_.packed; }

    std::int64_t column_tiles(std::int64_t panel) const {
        return split_tiles_of(phase_, first_panel_ + panel);
    }
    std::int64_t first_tile(std::int64_t panel) const {
        return group_ * split_column_tiles(phase_) + (first_panel_ + panel) * 2;
    }
    const char* columns_at(std::int64_t panel, std::int64_t step) const {
        if (packs()) return packed_columns(panel);
        return operands_.packed + split_raw_bytes(phase_) +
               (first_tile(panel) * steps_ + step * column_tiles(panel)) * kSplitTileBytes;
    }
    bool raw_column(std::int64_t panel, std::int64_t tile) const {
        if (packs()) return packed_raw(panel)[tile];
        const std::int64_t block = begin_ / phase_.split_steps_per_block;
        return operands_.packed[(first_tile(panel) + tile) * split_blocks(phase_) + block] != 0;
    }

    // Of a task that packs: all panels, or one after the other in the same place.
    std::int64_t packed_slot(std::int64_t panel) const { return phase_.split_rows_first ? panel : 0; }
    char* packed_columns(std::int64_t panel) const {
        return at<char>(layout_.panel) +
               packed_slot(panel) * phase_.split_steps_per_block * 2 * kSplitTileBytes;
    }
    bool* packed_raw(std::int64_t panel) const {
        return at<bool>(layout_.split_raw_columns) + 2 * packed_slot(panel);
    }
    void pack(std::int64_t panel) const {
        pack_split_piece(phase_, kernels_, *operands_.weight,
                         {group_, first_panel_ + panel, begin_, count_}, at<float>(layout_.staging),
                         packed_columns(panel), packed_raw(panel));
    }

    PanelColumns columns_of(std::int64_t panel) const {
        const std::int64_t width = column_tiles(panel) * kSplitLines;
        const std::int64_t col = (first_panel_ + panel) * kSplitPanel;
        return {col, std::min(width, phase_.cols - col), width, true};
    }
    float* sums(std::int64_t panel) const {
        const bool one = phase_.split_steps_per_block >= steps_;
        return at<float>(layout_.sum) + (one ? 0 : panel * rows_ * kSplitPanel);
    }

    SplitProduct product_of(std::int64_t chunk, std::int64_t panel) const {
        SplitProduct product;
        product.rows = row_tiles(chunk);
        product.row_tile_bytes = split_chunk_bytes(phase_) / 2;
        product.count = rows_of(chunk);
        product.raw_rows = raw_rows(chunk);
        product.columns = columns_at(panel, begin_);
        product.column_tiles = static_cast<int>(column_tiles(panel));
        for (int i = 0; i < product.column_tiles; ++i)
            if (raw_column(panel, i)) product.raw_columns |= 1u << i;
        product.steps = count_;
        return product;
    }

    static void share(SplitRows& rows, std::int64_t i, std::int64_t of, SplitProduct& product) {
        product.split = &rows;
        product.split_begin = rows.units() * i / of;
        product.split_end = rows.units() * (i + 1) / of;
    }

    // Rows follow each other, beyond the task's last too.
    void fetch_rows(std::int64_t chunk, std::int64_t panel, SplitProduct& product) const {
        const std::int64_t lines = kSplitRows * count_ * kSplitStep / 16;
        const float* first = segment_rows(0)[0] + chunk * kSplitRows * phase_.channels;
        product.ahead = reinterpret_cast<const char*>(first) + lines * panel / panels_ * 64;
        product.ahead_lines = lines * (panel + 1) / panels_ - lines * panel / panels_;
    }

    void fetch_columns(std::int64_t chunk, std::int64_t panel, SplitProduct& product) const {
        const bool next_block = panel + 1 == panels_;
        if (packs() || (next_block && is_last())) return;
        const std::int64_t next = next_block ? 0 : panel + 1;
        const std::int64_t lines = column_tiles(next) * count_ * (kSplitTileBytes / 64);
        product.ahead = columns_at(next, next_block ? begin_ + count_ : begin_) +
                        lines * chunk / chunks_ * 64;
        product.ahead_lines = lines * (chunk + 1) / chunks_ - lines * chunk / chunks_;
    }

    void multiply(SplitProduct& product, std::int64_t chunk, std::int64_t panel) {
        product.fresh = at<float>(layout_.split_fresh) + turn_ * kSplitRows * kSplitPanel;
        if (pending_) product.results = &results_;
        kernels_.split->multiply(product, configured_);
        turn_ ^= 1;
        pending_ = true;
        const PanelColumns columns = columns_of(panel);
        results_ = SplitResults{};
        results_.fresh = product.fresh;
        results_.count = product.count;
        results_.pitch = columns.width;
        results_.first = begin_ == 0;
        results_.last = is_last();
        const std::int64_t row = chunk * kSplitRows;
        if (is_last()) point_results(columns, panel, chunk == 0);
        else results_.tile.sum = sums(panel);
        results_.tile.sum += row * columns.width;
        if (!is_last()) return;
        results_.tile.out += row;
        if (results_.tile.residual) results_.tile.residual += row;
    }

    // In place, one list serves all panels.
    void point_results(PanelColumns columns, std::int64_t panel, bool first_chunk) {
        columns.is_first = in_place_ ? !pointed_ : first_chunk;
        if (columns.is_first || in_place_) {
            tile_ = GemmTile<float>{};
            point_out(tile_, columns, sums(panel));
            pointed_ = true;
        }
        results_.tile = tile_;
    }

    void deliver() {
        if (pending_) kernels_.split->deliver(results_);
        pending_ = false;
    }

    const SplitOperands& operands_;
    std::int64_t steps_, first_panel_, panels_, chunks_;
    bool in_place_;
    std::int64_t begin_ = 0, count_ = 0;  // the depth block's steps
    int configured_ = 0, turn_ = 0;
    bool pending_ = false, pointed_ = false;
    SplitResults results_;
    GemmTile<float> tile_;
    const float* copied_[kSplitRows];
};

}  // namespace

void run_split_task(const Correlation& phase, const Kernels<float>& kernels,
                    const SplitOperands& operands, std::int64_t task) {
    SplitTask(phase, kernels, operands, task).run();
}

}  // namespace fastconv::cpu

// The geometry of a block of the implicit GEMM: its output positions, and pointers of each to what its
// taps read and to where its results go.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/parallel.h"
#include "cpu/correlation.h"
#include "cpu/kernels_copy.h"
#include "cpu/position_order.h"
#include "cpu/strip.h"

namespace fastconv::cpu {

/// Lists in the thread's scratch, one entry a position: row-major in each image after the other, or in
/// the plan's order.
template <class T>
class BlockPointers {
public:
    BlockPointers(const Correlation& phase, const Kernels<T>& kernels, std::int64_t task)
        : phase_(phase), layout_(scratch_layout(phase, kernels)),
          scratch_(static_cast<char*>(thread_scratch(layout_.bytes))) {
        // Parts innermost: neighbours in time share the source block.
        part_ = task % phase.parts;
        task /= phase.parts;
        const std::int64_t block_w = task % phase.blocks_w;
        task /= phase.blocks_w;
        const std::int64_t block_h = task % phase.blocks_h;
        task /= phase.blocks_h;
        group_ = task % phase.groups;
        const std::int64_t block_n = task / phase.groups;
        image_ = phase.batch * block_n / phase.blocks_n();
        images_ = phase.batch * (block_n + 1) / phase.blocks_n() - image_;
        i_begin_ = phase.out_h * block_h / phase.blocks_h;
        i_end_ = phase.out_h * (block_h + 1) / phase.blocks_h;
        j_begin_ = phase.out_w * block_w / phase.blocks_w;
        j_end_ = phase.out_w * (block_w + 1) / phase.blocks_w;
        rows_ = images_ * image_rows();
    }

protected:
    std::int64_t image_rows() const { return (i_end_ - i_begin_) * (j_end_ - j_begin_); }

    template <class U>
    U* at(std::size_t offset) const { return reinterpret_cast<U*>(scratch_ + offset); }

    void order_block() {
        std::int32_t* ends = at<std::int32_t>(layout_.ends);
        stretches_ = 1;
        ends[0] = static_cast<std::int32_t>(rows_);
        if (phase_.order != PositionOrder::kRows)
            stretches_ = order_positions(phase_.order, phase_.rings, images_, i_end_ - i_begin_,
                                         j_end_ - j_begin_, at<std::int32_t>(layout_.order), ends);
    }

    // Row-major pointers into the order of the tiles.
    template <class U>
    void reorder(U** pointers) const {
        if (phase_.order == PositionOrder::kRows) return;
        if (phase_.order == PositionOrder::kLines && images_ == 1) return;
        const std::int32_t* order = at<std::int32_t>(layout_.order);
        U** moved = at<U*>(layout_.moved);
        std::copy_n(pointers, rows_, moved);
        for (std::int64_t r = 0; r < rows_; ++r) pointers[r] = moved[order[r]];
    }

    void point_into_source(const T* first_image) {
        T* zeros = at<T>(layout_.strip);
        std::fill_n(zeros, phase_.channels, T(0));
        const T** pointer = at<const T*>(layout_.pointers);
        for (std::int64_t a = 0; a < phase_.taps_h.count; ++a)
            for (std::int64_t b = 0; b < phase_.taps_w.count; ++b) {
                for (std::int64_t n = 0; n < images_; ++n)
                    pointer = point_at_tap(first_image + n * phase_.source.batch_elems, a, b, zeros,
                                           pointer);
                reorder(pointer - rows_);
            }
    }

    const T** point_at_tap(const T* image, std::int64_t a, std::int64_t b, const T* zeros,
                           const T** pointer) const {
        const AxisTaps &th = phase_.taps_h, &tw = phase_.taps_w;
        for (std::int64_t i = i_begin_; i < i_end_; ++i) {
            const std::int64_t y = i * th.step + th.offset + a * th.offset_step;
            if (y < 0 || y >= phase_.source_h) {
                pointer = std::fill_n(pointer, j_end_ - j_begin_, zeros);
                continue;
            }
            const T* line = image + y * phase_.source.height_elems;
            std::int64_t x = j_begin_ * tw.step + tw.offset + b * tw.offset_step;
            for (std::int64_t j = j_begin_; j < j_end_; ++j, x += tw.step)
                *pointer++ = x < 0 || x >= phase_.source_w ? zeros
                                                           : line + x * phase_.source.width_elems;
        }
        return pointer;
    }

    void gather_strips(const CopyKernels<T>& copy, const T* first_image) {
        const AxisTaps &th = phase_.taps_h, &tw = phase_.taps_w;
        Strip strip;
        strip.first_y = i_begin_ * th.step + th.offset;
        strip.first_x = j_begin_ * tw.step + tw.offset;
        strip.pace_y = th.count == 1 ? th.step : 1;
        strip.pace_x = tw.count == 1 ? tw.step : 1;
        strip.height = strip_extent(i_end_ - i_begin_, phase_.strip_step_h(), th);
        strip.width = strip_extent(j_end_ - j_begin_, phase_.strip_step_w(), tw);
        strip.line_pixels = layout_.strip_w;
        for (std::int64_t n = 0; n < images_; ++n)
            fill_strip(copy, phase_, first_image + n * phase_.source.batch_elems, strip,
                       image_strip(n));
    }

    T* image_strip(std::int64_t n) const {
        return at<T>(layout_.strip) + n * layout_.strip_h * layout_.strip_w * phase_.channels;
    }

    static std::int64_t strip_extent(std::int64_t outputs, std::int64_t step,
                                     const AxisTaps& taps) {
        return (outputs - 1) * step + 1 + (taps.count > 0 ? taps.last_offset() - taps.offset : 0);
    }

    // Kernel rows lie a fixed step apart in the strip: pointers of the first are enough for all.
    void point_into_strips() {
        const T** pointer = at<const T*>(layout_.pointers);
        const AxisTaps &th = phase_.taps_h, &tw = phase_.taps_w;
        const std::int64_t segments_h = phase_.merge ? 1 : th.count;
        const std::int64_t segments_w = phase_.merge ? 1 : tw.count;
        for (std::int64_t a = 0; a < segments_h; ++a)
            for (std::int64_t b = 0; b < segments_w; ++b)
                for (std::int64_t n = 0; n < images_; ++n)
                    pointer = point_at_segment(image_strip(n), a * th.offset_step,
                                               b * tw.offset_step, pointer);
    }

    const T** point_at_segment(const T* strip, std::int64_t u, std::int64_t v,
                               const T** pointer) const {
        for (std::int64_t i = i_begin_; i < i_end_; ++i, u += phase_.strip_step_h()) {
            const T* line = strip + (u * layout_.strip_w + v) * phase_.channels;
            for (std::int64_t j = 0; j < j_end_ - j_begin_; ++j)
                *pointer++ = line + j * phase_.strip_step_w() * phase_.channels;
        }
        return pointer;
    }

    // Pointers of this block's positions in an operand of the output's shape.
    template <class U>
    void point_into_output(U* first, const Strides& strides, U** pointers) const {
        for (std::int64_t n = 0; n < images_; ++n, first += strides.batch_elems)
            for (std::int64_t i = i_begin_; i < i_end_; ++i)
                for (std::int64_t j = j_begin_; j < j_end_; ++j)
                    *pointers++ = first + i * strides.height_elems + j * strides.width_elems;
    }

    // Calls move(position, positions, element) for runs of positions that lie width_elems apart.
    template <class Move>
    void for_runs(const Strides& strides, Move&& move) const {
        const std::int64_t width = j_end_ - j_begin_;
        const bool whole =
            width == phase_.out_w && strides.height_elems == width * strides.width_elems;
        const std::int64_t lines = whole ? 1 : i_end_ - i_begin_;
        const std::int64_t run = whole ? image_rows() : width;
        std::int64_t position = 0;
        for (std::int64_t n = 0; n < images_; ++n)
            for (std::int64_t i = i_begin_; i < i_begin_ + lines; ++i, position += run)
                move(position, run,
                     n * strides.batch_elems + i * strides.height_elems +
                         j_begin_ * strides.width_elems);
    }

    const Correlation& phase_;
    ScratchLayout layout_;
    char* scratch_;
    std::int64_t stretches_ = 1;
    std::int64_t part_, group_;
    std::int64_t image_, images_;  // the first, and how many
    std::int64_t i_begin_, i_end_, j_begin_, j_end_, rows_;
};

}  // namespace fastconv::cpu

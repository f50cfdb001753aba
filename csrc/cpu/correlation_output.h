// What a task of the implicit GEMM writes: a panel's results with bias, residual and ReLU, in place or,
// where the output's channels are strided, through the tile of sums.
#pragma once

#include "cpu/correlation_pointers.h"
#include "cpu/kernels_gemm.h"

namespace fastconv::cpu {

template <class T>
class BlockOutput : protected BlockPointers<T> {
    using Base = BlockPointers<T>;

protected:
    using Base::phase_, Base::layout_, Base::group_, Base::image_, Base::rows_;

    BlockOutput(const Correlation& phase, const Kernels<T>& kernels, const Epilogue<T>& epilogue, T* out,
                std::int64_t task)
        : Base(phase, kernels, task), kernels_(kernels), epilogue_(epilogue), out_(out) {}

    /// Columns of a panel, whose rows of sums are `width` apart.
    struct PanelColumns {
        std::int64_t col, cols, width;
        bool is_first;  // of the task's panels
    };

    /// Points `tile`, and the lists of its rows, at the results of some columns.
    void point_out(GemmTile<T>& tile, const PanelColumns& columns, T* sum) const {
        const std::int64_t col = columns.col;
        T* out = first_out(columns);
        tile.sum = sum;
        tile.cols = columns.cols;
        tile.relu = epilogue_.relu;
        if (epilogue_.bias) tile.bias = epilogue_.bias + group_ * phase_.cols + col;
        // In place, the first panel's pointers serve all, each at its column.
        const bool has_residual = epilogue_.residual != nullptr;
        const bool in_place = !through_sum() && (!has_residual || phase_.residual.channel_elems == 1);
        const bool pointed = in_place && !columns.is_first;
        if (in_place) tile.out_offset = col;
        T** out_pointers = this->template at<T*>(layout_.out_pointers);
        if (through_sum())
            for (std::int64_t r = 0; r < rows_; ++r) out_pointers[r] = sum + r * columns.width;
        else if (!pointed)
            this->point_into_output(in_place ? out - col : out, phase_.out, out_pointers);
        if (!pointed) this->reorder(out_pointers);
        tile.out = out_pointers;
        if (has_residual)
            tile.residual = pointed ? this->template at<const T*>(layout_.residual_pointers)
                                    : point_residual(in_place ? 0 : col, columns);
    }

    /// After the last tile.
    void move_out(const PanelColumns& columns, const T* sum) const {
        if (!through_sum()) return;
        T* out = first_out(columns);
        const auto move = [&](std::int64_t position, std::int64_t count, std::int64_t elem) {
            kernels_.copy->copy(count, columns.cols, {sum + position * columns.width, columns.width, 1},
                                {out + elem, phase_.out.width_elems, phase_.out.channel_elems});
        };
        this->for_runs(phase_.out, move);
    }

    const Kernels<T>& kernels_;

private:
    bool through_sum() const { return phase_.out.channel_elems != 1; }

    T* first_out(const PanelColumns& columns) const {
        return out_ + phase_.out_first_elems + image_ * phase_.out.batch_elems +
               group_ * phase_.out_group_elems + columns.col * phase_.out.channel_elems;
    }

    const T** point_residual(std::int64_t col, const PanelColumns& columns) const {
        const T** pointers = this->template at<const T*>(layout_.residual_pointers);
        const T* first = epilogue_.residual + phase_.residual_first_elems +
                         image_ * phase_.residual.batch_elems +
                         group_ * phase_.residual_group_elems + col * phase_.residual.channel_elems;
        if (phase_.residual.channel_elems == 1) {
            this->point_into_output(first, phase_.residual, pointers);
            this->reorder(pointers);
            return pointers;
        }
        T* strip = this->template at<T>(layout_.residual);
        const auto move = [&](std::int64_t position, std::int64_t count, std::int64_t elem) {
            kernels_.copy->copy(
                count, columns.cols,
                {first + elem, phase_.residual.width_elems, phase_.residual.channel_elems},
                {strip + position * columns.width, columns.width, 1});
        };
        this->for_runs(phase_.residual, move);
        for (std::int64_t r = 0; r < rows_; ++r) pointers[r] = strip + r * columns.width;
        this->reorder(pointers);
        return pointers;
    }

    const Epilogue<T>& epilogue_;
    T* out_;
};

}  // namespace fastconv::cpu

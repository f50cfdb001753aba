// Convolution of few channels to few filters over planes, what `direct` does where channels would leave
// most lanes empty: LeNet's first layer has 6 filters for 16 lanes. Forward and grad_weight.
#pragma once

#include <algorithm>

#include "cpu/conv2d.h"
#include "cpu/kernels_copy.h"
#include "cpu/kernels_planes.h"

namespace fastconv::cpu {

/// Completes a plan of `direct`, whose phases stay what packed weights go by, or returns false where
/// positions do not fill lanes better. Unit stride along the width, 3 to 8 filters and at most 4
/// channels a group, no residual.
bool plan_planes(ConvPlan& plan);
void run_planes(const ConvPlan& plan, const ConvPointers& pointers);
void run_planes_grad_weight(const ConvPlan& plan, const ConvPointers& pointers, void* workspace);

/// Sizes of a task's planes: of x, zero-padded, and of as many output rows.
template <class T>
struct PlanesLayout {
    std::int64_t strip_h, pitch, plane;  // of x: lines, elements a line and a plane
    std::int64_t out_plane;              // elements, with room for what a tile stores too much
    std::int64_t weights;                // of a group
    std::size_t x, out, sums, bytes;

    PlanesLayout(const ConvPlan& plan, const PlanesKernels<T>& kernels) {
        const Conv& conv = plan.problem;
        const std::int64_t step = PlanesKernels<T>::kVectors * kernels.lanes;
        strip_h = (plan.planes.rows - 1) * conv.height.stride + conv.height.extent();
        pitch = (conv.width.out + step - 1) / step * step + conv.width.extent();
        plane = strip_h * pitch;
        out_plane = plan.planes.rows * conv.width.out + step;
        weights = conv.group_out() * conv.group_in() * conv.taps();
        const auto aligned = [](std::int64_t elems) {
            return (static_cast<std::size_t>(elems) * sizeof(T) + 63) / 64 * 64;
        };
        x = 0;
        out = x + aligned(conv.group_in() * plane);
        sums = out + aligned(conv.group_out() * out_plane);
        const bool gradient = plan.direction == Direction::kGradWeight;
        bytes = sums + aligned(weights * (gradient ? kernels.lanes : 1));
    }
};

/// A block of output rows of an image and group.
struct PlanesBlock {
    std::int64_t image, group, begin, rows;

    /// `index` counts blocks, then images.
    PlanesBlock(const ConvPlan& plan, std::int64_t index, std::int64_t of_group) : group(of_group) {
        const std::int64_t blocks = plan.planes.blocks, block = index % blocks;
        image = index / blocks;
        begin = plan.problem.height.out * block / blocks;
        rows = plan.problem.height.out * (block + 1) / blocks - begin;
    }
};

/// planes[c][u][v] = x of the block's image at line u, column v of its windows, zero outside of it.
template <class T>
void fill_planes(const ConvPlan& plan, const PlanesLayout<T>& layout, const CopyKernels<T>& copy,
                 const PlanesBlock& block, const T* input, T* planes) {
    const Conv& conv = plan.problem;
    const Strides& from = plan.strides.input;
    const std::int64_t channels = conv.group_in(), pad = conv.width.pad_lo;
    const std::int64_t columns = std::min(conv.width.in, conv.width.out - 1 + conv.width.extent() - pad);
    std::fill_n(planes, channels * layout.plane, T(0));
    const T* image = input + block.image * from.batch_elems +
                     block.group * channels * from.channel_elems;
    const std::int64_t lines = (block.rows - 1) * conv.height.stride + conv.height.extent();
    for (std::int64_t u = 0; u < lines && columns > 0; ++u) {
        const std::int64_t y = block.begin * conv.height.stride + u - conv.height.pad_lo;
        if (y < 0 || y >= conv.height.in) continue;
        const T* line = image + y * from.height_elems;
        T* const to = planes + u * layout.pitch + pad;
        if (channels == 1)
            copy.copy(1, columns, {line, 0, from.width_elems}, {to, 0, 1});
        else
            copy.copy(columns, channels, {line, from.width_elems, from.channel_elems},
                      {to, 1, layout.plane});
    }
}

/// Between an operand of the output's shape and planes[k][p * Q + q] of the block's rows.
template <class T>
MatrixView<T> rows_of_output(const ConvPlan& plan, const PlanesBlock& block, T* output) {
    const Strides& at = plan.strides.output;
    return {output + block.image * at.batch_elems +
                block.group * plan.problem.group_out() * at.channel_elems +
                block.begin * at.height_elems,
            at.width_elems, at.channel_elems};
}

/// move(positions, offset in a plane, offset in the operand): rows that follow each other at once.
template <class Move>
void for_output_rows(const ConvPlan& plan, const PlanesBlock& block, Move&& move) {
    const std::int64_t width = plan.problem.width.out, row = plan.strides.output.height_elems;
    if (row == width * plan.strides.output.width_elems) return move(block.rows * width, 0, 0);
    for (std::int64_t p = 0; p < block.rows; ++p) move(width, p * width, p * row);
}

}  // namespace fastconv::cpu

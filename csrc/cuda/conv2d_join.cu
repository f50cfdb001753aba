// What runs around the convolution kernels: weights into the layout they read, splits of their sums
// into the result, and grad_bias. Launches; the kernels are in conv2d_pack.cuh, conv2d_join.cuh and
// grad_bias.cuh.
#include <algorithm>
#include <climits>
#include <cstdlib>

#include "core/ceil_div.h"
#include "cuda/conv2d_join.cuh"
#include "cuda/conv2d_pack.cuh"
#include "cuda/conv2d_pack.h"
#include "cuda/grad_bias.cuh"
#include "cuda/launch.h"
#include "cuda/walk.cuh"

namespace fastconv::cuda {
namespace {

// ---- partial sums -------------------------------------------------------------------------------

/// Lanes and warps of a block: splits beyond the first few are shared by its warps, of 32 results.
dim3 join_block(int splits) {
    constexpr int kFewSplits = 8, kWarps = 8;
    return splits <= kFewSplits ? dim3(kJoinThreads) : dim3(kJoinThreads / kWarps, kWarps);
}

/// Of `items` threads' results, `count` neighbours each.
LaunchShape join_shape(std::int64_t items, int splits, int count) {
    const dim3 block = join_block(splits);
    const std::size_t shares = block.y > 1 ? kJoinThreads * static_cast<std::size_t>(count) : 0;
    return {dim3(blocks_for(items, static_cast<int>(block.x), 16)), block, shares * sizeof(float)};
}

void launch_store(const StoreArguments& p, bool four, Stream stream) {
    const int count = four ? 4 : 1;
    launch<store_in_order>(join_shape(ceil_div(p.elements, count), p.splits, count), stream, p,
                           four);
}

bool multiple_of_4(const Strides& s) {
    return s.channel_elems == 1 && s.batch_elems % 4 == 0 && s.height_elems % 4 == 0 &&
           s.width_elems % 4 == 0;
}

bool aligned_for_4(const void* pointer, std::int64_t element_bytes) {
    return reinterpret_cast<std::uintptr_t>(pointer) % (4 * element_bytes) == 0;
}

std::int64_t magnitude(std::int64_t x) { return x < 0 ? -x : x; }

// ---- grad_bias ----------------------------------------------------------------------------------

constexpr std::int64_t kMostBlocks = 1056;  // 8 for each multiprocessor of an H100
constexpr std::int64_t kLoads = 8;          // of a thread, at least, before a chunk is cut in two

/// How long chunks of `count` pieces are: of at least `least` each, and blocks * chunks at most
/// kMostBlocks unless there are more blocks.
std::int64_t chunk_of(std::int64_t count, std::int64_t least, std::int64_t blocks) {
    const std::int64_t most = std::max<std::int64_t>(1, kMostBlocks / blocks);
    const std::int64_t chunks =
        std::clamp<std::int64_t>(count / std::max<std::int64_t>(1, least), 1, most);
    return std::max<std::int64_t>(1, ceil_div(count, chunks));
}

/// Where the sums go.
struct BiasOutput {
    Operand data;
    std::int64_t elems;
    bool accumulate;
};

void add(const Conv& conv, const Scratch& partial, std::int64_t chunks, const BiasOutput& out,
         Stream stream) {
    launch<add_chunks>({dim3(static_cast<unsigned>(ceil_div(conv.out_channels, 32))),
                        dim3(32 * kAddSlices), 32 * kAddSlices * sizeof(float)},
                       stream, static_cast<const float*>(partial.data()), chunks,
                       conv.out_channels, out.data, out.elems, out.accumulate);
}

void by_positions(const Conv& conv, const Strides& grad_output, const Operand& grad,
                  const BiasOutput& out, Stream stream) {
    const std::int64_t pack = pack_elems_of(grad.dtype);
    Positions p{};
    p.strides = grad_output;
    p.channels = conv.out_channels;
    p.count = conv.batch * conv.height.out * conv.width.out;
    p.out_h = static_cast<int>(std::max<std::int64_t>(1, conv.height.out));
    p.out_w = static_cast<int>(std::max<std::int64_t>(1, conv.width.out));
    p.vector = packs_channels(grad.data, grad_output, conv.batch, conv.height.out, conv.width.out,
                              pack);
    const std::int64_t packs = ceil_div(p.channels, pack);
    p.lanes = static_cast<int>(std::min<std::int64_t>(packs, kBiasThreads));
    const std::int64_t blocks = ceil_div(packs, p.lanes);
    p.chunk = chunk_of(p.count, kBiasThreads / p.lanes * kLoads, blocks);
    const std::int64_t chunks = std::max<std::int64_t>(1, ceil_div(p.count, p.chunk));

    const Scratch partial(static_cast<std::size_t>(chunks * p.channels) * sizeof(float), stream);
    launch<sum_positions>({dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(blocks)),
                           dim3(kBiasThreads),
                           static_cast<std::size_t>(kBiasThreads * pack) * sizeof(float)},
                          stream, p, grad, static_cast<float*>(partial.data()));
    add(conv, partial, chunks, out, stream);
}

void by_lines(const Conv& conv, const Strides& grad_output, const Operand& grad,
              const BiasOutput& out, Stream stream) {
    const std::int64_t pack = pack_elems_of(grad.dtype);
    Lines p{};
    p.strides = grad_output;
    p.channels = conv.out_channels;
    std::int64_t lines = conv.height.out;
    p.length = conv.width.out;
    if (lines == 1 || grad_output.height_elems == p.length * grad_output.width_elems) {
        p.length *= lines;
        lines = 1;
    }
    const std::int64_t pieces = std::max<std::int64_t>(1, ceil_div(p.length, kPieceElems));
    const std::int64_t count = p.length == 0 ? 0 : conv.batch * lines * pieces;
    if (count > INT_MAX / 2)  // lines of an element or two
        return by_positions(conv, grad_output, grad, out, stream);
    p.lines = static_cast<int>(lines);
    p.pieces = static_cast<int>(pieces);
    p.count = static_cast<int>(count);
    const std::int64_t packs = p.length / pack;
    p.lanes = packs >= 32 ? 32 : packs >= 16 ? 16 : 8;
    const std::int64_t blocks = ceil_div(p.channels, kBiasThreads / p.lanes);
    const std::int64_t piece = std::min(p.length, kPieceElems);  // of which a thread has a part:
    const std::int64_t loads = std::max<std::int64_t>(1, piece / (p.lanes * pack));
    p.chunk = static_cast<int>(chunk_of(count, ceil_div(kLoads, loads), blocks));
    const std::int64_t chunks = std::max<std::int64_t>(1, ceil_div(count, p.chunk));

    const Scratch partial(static_cast<std::size_t>(chunks * p.channels) * sizeof(float), stream);
    launch<sum_lines>({dim3(static_cast<unsigned>(chunks), static_cast<unsigned>(blocks)),
                       dim3(kBiasThreads)},
                      stream, p, grad, static_cast<float*>(partial.data()));
    add(conv, partial, chunks, out, stream);
}

}  // namespace

void pack_correlation_weights(const CudaConvPlan& plan, WeightLayout layout, const void* weight,
                              void* workspace, Stream stream) {
    const std::int64_t bytes = plan.problem.element_bytes();
    const bool by_depth = layout == WeightLayout::kDepthCol;
    const auto taps_of = [](const Correlation& phase) {
        return phase.taps_h.count * phase.taps_w.count;
    };
    for (std::size_t i = 0; i < plan.phases.size(); ++i) {
        const Correlation& phase = plan.phases[i];
        const CudaWeight& view = plan.weights[i];
        if (!view.in_place &&
            view.pitch != (by_depth ? phase.cols : taps_of(phase) * phase.channels)) {
            check(cudaMemsetAsync(workspace, 0, static_cast<std::size_t>(plan.packed_bytes),
                                  stream_of(stream)),
                  "cudaMemsetAsync");
            break;
        }
    }
    // Phases have the same filters and channels, and the same distances between taps.
    const Correlation& first = plan.phases.front();
    const CudaWeight& strides = plan.weights.front();
    PackArguments p{};
    p.cols = static_cast<int>(first.cols);
    p.channels = static_cast<int>(first.channels);
    p.group_elems = strides.group_elems;
    p.col_elems = strides.col_elems;
    p.channel_elems = strides.channel_elems;
    p.tap_h_elems = strides.tap_h_elems;
    p.tap_w_elems = strides.tap_w_elems;
    p.by_depth = by_depth;
    p.element_bytes = static_cast<int>(bytes);
    p.read_along_cols = magnitude(p.col_elems) < magnitude(p.channel_elems);
    p.col_tiles = (p.cols + kPackTile - 1) / kPackTile;
    const int channel_tiles = (p.channels + kPackTile - 1) / kPackTile;
    const LaunchShape shape{dim3(static_cast<unsigned>(p.col_tiles * channel_tiles), 1,
                                 static_cast<unsigned>(first.groups)),
                            dim3(kPackTile, kPackRows),
                            static_cast<std::size_t>(kPackTile * (kPackTile + 1) * bytes)};
    int phases = 0, taps = 0;
    const auto start = [&] {
        for (int i = phases; i < kMostPhases; ++i) p.phase[i].first_tap = taps;  // no block's
        LaunchShape now = shape;
        now.grid.y = static_cast<unsigned>(taps);
        launch<pack_weights>(now, stream, p);
        phases = taps = 0;
    };
    for (std::size_t i = 0; i < plan.phases.size(); ++i) {
        const CudaWeight& view = plan.weights[i];
        if (view.in_place || taps_of(plan.phases[i]) == 0) continue;
        if (phases == kMostPhases) start();
        p.phase[phases++] = {static_cast<const char*>(weight) + view.first_elems * bytes,
                             static_cast<char*>(workspace) + view.packed_offset,
                             view.pitch, view.packed_group_elems,
                             static_cast<int>(plan.phases[i].taps_w.count), taps};
        taps += static_cast<int>(taps_of(plan.phases[i]));
    }
    if (phases > 0) start();
}

void join_correlation_splits(const CorrelationLaunch& phases, DType dtype, Stream stream) {
    const bool single = phases.store([&](const CorrelationArguments& p) {
        return !(p.cols % 4 == 0 && multiple_of_4(p.out_strides) && p.out_group_elems % 4 == 0 &&
                 aligned_for_4(p.out, element_bytes_of(dtype)) && aligned_for_4(p.partial, 4));
    });
    require_kernels(dtype);
    const CorrelationArguments& p = phases.first;
    const int count = single ? 1 : 4;
    const std::int64_t items =
        std::int64_t{p.groups} * phases.most_rows() * ceil_div(p.cols, count);
    LaunchShape shape = join_shape(items, phases.most_splits(), count);
    shape.grid.y = static_cast<unsigned>(phases.phases);
    launch<join_correlation>(shape, stream, phases, dtype, !single);
}

void store_grad_weight_splits(const Correlation& view, const Strides& weight, int splits,
                              float* partial, DType dtype, bool accumulate, void* out,
                              Stream stream) {
    StoreArguments p{};
    p.partial = partial;
    p.weight = {out, dtype};
    p.splits = splits;
    p.cols = static_cast<int>(view.cols);
    p.channels = static_cast<int>(view.channels);
    p.taps = static_cast<int>(view.taps_h.count * view.taps_w.count);
    p.taps_w = static_cast<int>(view.taps_w.count);
    const std::int64_t depth = static_cast<std::int64_t>(p.taps) * p.channels;
    p.elements = view.groups * view.cols * depth;
    p.group_elems = view.cols * weight.batch_elems;
    p.strides = weight;
    p.accumulate = accumulate;
    require_kernels(dtype);
    const bool same = lies_in_order(view, weight);
    const bool four = p.elements % 4 == 0 && aligned_for_4(partial, 4);
    if (!same && join_block(splits).y > 1) {  // into the first of them, so that few reads remain
        StoreArguments sum = p;
        sum.weight = {partial, DType::kFloat32};
        sum.accumulate = false;
        launch_store(sum, four, stream);
        p.splits = 1;
    }
    if (same)
        return launch_store(p, four && aligned_for_4(out, element_bytes_of(dtype)), stream);
    const std::int64_t blocks =
        view.groups * view.cols * ceil_div(view.channels, std::int64_t{kStoreChannels});
    launch<store_by_taps>({dim3(static_cast<unsigned>(blocks)), dim3(kJoinThreads),
                           static_cast<std::size_t>(store_shared_bytes(p.taps))},
                          stream, p);
}

void run_grad_bias(const Conv& conv, const Strides& grad_output, const void* grad, void* out,
                   DType out_dtype, std::int64_t out_elems, bool accumulate, Stream stream) {
    if (conv.out_channels == 0) return;
    require_kernels(conv.dtype);
    require_kernels(out_dtype);
    // Along the width; a matrix, of one column an image, has only its rows.
    const std::int64_t along = conv.width.out > 1    ? grad_output.width_elems
                               : conv.height.out > 1 ? grad_output.height_elems
                                                     : grad_output.batch_elems;
    const bool positions = conv.out_channels > 1 &&
                           std::llabs(grad_output.channel_elems) <= std::llabs(along);
    const auto sum = positions ? by_positions : by_lines;
    sum(conv, grad_output, {const_cast<void*>(grad), conv.dtype},
        {{out, out_dtype}, out_elems, accumulate}, stream);
}

}  // namespace fastconv::cuda

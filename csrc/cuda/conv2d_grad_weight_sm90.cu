// grad_weight by TMA and wgmma by tiles of (filters, depth). Kernels: grad_weight_tma.cuh.
#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "cuda/device.h"
#include "cuda/grad_weight_patch.cuh"
#include "cuda/launch.h"
#include "cuda/tma_operands.h"

namespace fastconv::cuda {
namespace tma {
namespace {

/// Whether the source's pixels are the rows.
bool is_pointwise(const GradWeightArguments& a) {
    return a.taps_h * a.taps_w == 1 && a.step_h == 1 && a.step_w == 1 && a.offset_h == 0 &&
           a.offset_w == 0 && a.source_h == a.out_h && a.source_w == a.out_w;
}

void set_boxes(WeightLaunch& p, int width, int height, int batch) {
    const int boxes_w = (width - 1) / p.box.width + 1, boxes_h = (height - 1) / p.box.height + 1;
    p.by_boxes_w = Divider(boxes_w);
    p.by_boxes_h = Divider(boxes_h);
    p.steps = boxes_w * boxes_h * ((batch - 1) / p.box.images + 1);
}

/// Maps and steps by boxes of pixels; of a pointwise problem, by rows in line where they lie so.
void map_boxes(WeightLaunch& p, const GradWeightArguments& a, bool bfloat16) {
    int width = a.out_w, height = a.out_h, batch = a.rows / (a.out_h * a.out_w);
    const std::int64_t cols = std::int64_t{a.groups} * a.cols;
    const std::int64_t channels = std::int64_t{a.groups} * a.channels;
    const std::int64_t out_pitch = line_pitch(width, height, batch, a.out_strides);
    const std::int64_t source_pitch =
        is_pointwise(a) ? line_pitch(width, height, batch, a.source_strides) : 0;
    MappedTensor out, source;
    if (out_pitch != 0 && source_pitch != 0) {
        width = a.rows;
        height = batch = 1;
        p.box = {kStepTerms, 1, 1};
        out = line_tensor(a.out, bfloat16, cols, a.rows, out_pitch);
        source = line_tensor(a.source, bfloat16, channels, a.rows, source_pitch);
    } else {
        p.box = best_box(width, height, batch, a.step_w, a.step_h);
        out = image_tensor(a.out, bfloat16, cols, width, height, batch, a.out_strides);
        source = image_tensor(a.source, bfloat16, channels, a.source_w, a.source_h, batch,
                              a.source_strides);
    }
    const int box[4] = {64, p.box.width, p.box.height, p.box.images};
    p.out = tiled_map(out, box);
    p.source = tiled_map(source, box, a.step_w, a.step_h);
    set_boxes(p, width, height, batch);
}

/// The same of tiles of 8x8 pixels and the source's patches around them.
void map_patches(WeightLaunch& p, const GradWeightArguments& a, bool bfloat16) {
    const int batch = a.rows / (a.out_h * a.out_w);
    constexpr int kPatch = WeightPatchTile::kPatchWidth;
    p.box = {8, 8, 1};
    p.out = tiled_map(image_tensor(a.out, bfloat16, std::int64_t{a.groups} * a.cols, a.out_w,
                                   a.out_h, batch, a.out_strides),
                      {64, p.box.width, p.box.height, 1});
    p.source = tiled_map(image_tensor(a.source, bfloat16, std::int64_t{a.groups} * a.channels,
                                      a.source_w, a.source_h, batch, a.source_strides),
                         {64, kPatch, kPatch, 1});
    set_boxes(p, a.out_w, a.out_h, batch);
}

template <class T, class Tile>
void start(const GradWeightArguments& a, Stream stream) {
    constexpr bool kBFloat16 = std::is_same_v<T, BFloat16>;
    if (a.groups == 0 || a.cols == 0 || a.depth == 0 || a.rows == 0) return;
    WeightLaunch p{};
    const std::int64_t cols = std::int64_t{a.groups} * a.cols;
    if constexpr (Tile::kPatches > 0) map_patches(p, a, kBFloat16);
    else map_boxes(p, a, kBFloat16);
    if (a.weight != nullptr && a.cluster == 1 && (a.groups == 1 || a.cols % 64 == 0)) {
        p.weight_mapped = true;
        p.weight_map = tiled_map({a.weight,
                                  kBFloat16,
                                  {a.channels, a.taps_h * a.taps_w, cols, 1},
                                  {a.channels, a.depth, a.depth * cols}},
                                 {64, 1, 16, 1});
    }
    p.weight = a.weight;
    p.partial = a.partial;
    p.cols = a.cols;
    p.depth = a.depth;
    p.groups = a.groups;
    p.channels = a.channels;
    p.taps = a.taps_h * a.taps_w;
    p.by_taps = Divider(p.taps);
    p.by_taps_w = Divider(a.taps_w);
    p.panels = p.taps * ((a.channels - 1) / 64 + 1);
    p.first_h = a.offset_h;
    p.first_w = a.offset_w;
    p.tap_h = a.offset_step_h;
    p.tap_w = a.offset_step_w;
    p.step_h = a.step_h;
    p.step_w = a.step_w;
    const int col_tiles = (a.cols - 1) / Tile::kBlockRows + 1;
    const int depth_tiles = (p.panels - 1) / (Tile::kBlockCols / 64) + 1;
    p.by_col_tiles = Divider(col_tiles);
    p.by_depth_tiles = Divider(depth_tiles);
    p.tiles = col_tiles * depth_tiles * p.groups;
    p.ranks = a.cluster;
    p.splits = a.splits;
    p.accumulate = a.accumulate;
    LaunchShape shape;
    const int blocks = p.ranks > 1 || a.splits > 1
                           ? p.tiles
                           : std::min(p.tiles, device(current_device()).multiprocessors);
    shape.grid = dim3(static_cast<unsigned>(blocks) * static_cast<unsigned>(p.ranks),
                      static_cast<unsigned>(a.splits));
    shape.block = dim3(Tile::kThreads);
    shape.cluster = dim3(static_cast<unsigned>(p.ranks));
    shape.shared_bytes = Tile::kSharedBytes;
    if constexpr (Tile::kPatches > 0) launch<grad_weight_patch<T, Tile>>(shape, stream, p);
    else launch<grad_weight<T, Tile>>(shape, stream, p);
}

template <class Tile>
void run(const GradWeightArguments& a, Arithmetic arithmetic, bool, Stream stream) {
    switch (arithmetic) {
        case Arithmetic::kFloat16: return start<Half, Tile>(a, stream);
        case Arithmetic::kBFloat16: return start<BFloat16, Tile>(a, stream);
        default: throw std::invalid_argument("tma grad_weight: multiplies 16-bit elements");
    }
}

template <class Tile>
constexpr GradWeightKernel row(const char* name, float efficiency) {
    return {name,
            90,
            bit(Arithmetic::kFloat16) | bit(Arithmetic::kBFloat16),
            Tile::kBlockRows,
            Tile::kBlockCols,
            kStepTerms,
            Tile::kThreads,
            1,
            run<Tile>,
            Tile::kSharedBytes,
            efficiency,
            false,
            true,
            90,
            true,
            Tile::kPatches};
}

constexpr GradWeightKernel kKernels[] = {
    row<Tile<2, 128, false, 4>>("tma_256x128", 0.87f), row<Tile<1, 128, false, 6>>("tma_128x128", 0.86f),
    row<Tile<1, 64, false, 8>>("tma_128x64", 0.66f),   row<Tile<1, 64, true, 8>>("tma_64x128", 0.50f),
    row<WeightPatchTile>("patch_64x576", 0.92f),
};

}  // namespace
}  // namespace tma

GradWeightKernels grad_weight_kernels_sm90() {
    return {std::begin(tma::kKernels), std::end(tma::kKernels)};
}

}  // namespace fastconv::cuda

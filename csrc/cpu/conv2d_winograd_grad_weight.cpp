// The gradient of a convolution's weights by Winograd: 5x5 of unit stride with tiles of 2x2 and 4x4 output
// positions, 3x3 and others with 2x2, 4x4 and 6x6, float32.
//
//   grad_weight = G^T [ sum over tiles of (B^T x B) * (A grad_output A^T) ] G
//
// the transpose of F(m, r)'s forward, or F(r, m) read as a convolution of x with grad_output: r x r
// results from alpha^2 products a tile instead of m^2 r^2. A task has some channels, some column panels
// and one of the sums (a run of blocks of tiles):
//   for each block of T tiles, in row-major order through rows and images
//     V[point][tile][c], W[point][panel][tile][k]  = transforms of x and grad_output      L2
//     for each point, panel and register tile of channels
//       M[point][c][k] (+)= sum over the block's tiles of V W      the tile of kernels_outer.h
//   the totals of all sums are added in order; one transform to taps at the end
// so neither V nor W ever reaches memory, and M does only where there are several sums.
//
// A kernel of other sizes or with a stride is cut into subkernels (cpu/conv2d_winograd.cpp), each a gradient for
// itself: x moved by the subkernel's first tap, and of its taps those that there are. With fewer than r the point
// infinity, which only the last tap is made from, is left out.
//
// What one accumulator sums is a block, and blocks and sums follow from the shape alone: the same bits
// for any number of threads. A NaN or infinity of a channel or filter stays within it.
// Not handled: dilation, kernels of one row or column, float64.
#include <algorithm>
#include <cmath>

#include "core/ceil_div.h"
#include "core/parallel.h"
#include "core/phases.h"
#include "core/workspace.h"
#include "cpu/conv2d.h"
#include "cpu/kernels_outer.h"
#include "cpu/outer.h"
#include "cpu/panels.h"
#include "cpu/sum_tasks.h"
#include "cpu/winograd_choice.h"
#include "cpu/winograd_grad_weight.h"
#include "cpu/winograd_tiles.h"

namespace fastconv::cpu {
namespace {

constexpr std::int64_t kBlockBytes = 1200 << 10;  // of V and W, each read once a block: about a 1 MB L2
constexpr std::int64_t kFewestTiles = 16, kMostTiles = 96;
constexpr std::int64_t kPart = 128;  // channels and columns of the blocks' measure

// Several sums where the weights alone make few tasks, but not so many that reading and writing their
// totals takes time: they stay in L3, or each sums many tiles.
constexpr std::int64_t kTasksWanted = 32, kMostSums = 8;
constexpr std::int64_t kPartElems = 64 * 64;
constexpr std::int64_t kTotalsBytes = 10 << 20;
constexpr double kTotalsInL2 = 200e3;  // elements
constexpr std::int64_t kManyTiles = 512;

void cut_tiles(ConvPlan& plan) {
    const Correlation& view = plan.phases[0];
    const std::int64_t points = winograd_variant(plan).points();
    const std::int64_t tiles = plan.winograd.tiles() * view.batch;
    const std::int64_t tile_bytes =
        points * 4 * (std::min(view.channels, kPart) + std::min(view.cols, kPart));
    const std::int64_t most = std::clamp(kBlockBytes / tile_bytes, kFewestTiles, kMostTiles);
    plan.winograd.blocks = ceil_div(tiles, most);
    plan.winograd.block_tiles = tiles > 0 ? ceil_div(tiles, plan.winograd.blocks) : 0;
    const std::int64_t weights =
        view.groups * plan.winograd.subkernels() * view.channels * view.cols;
    const std::int64_t tasks = std::max<std::int64_t>(1, weights / kPartElems);
    const Panels<float> panels(*plan.isa->kernels<float>().outer, view.cols);
    std::int64_t& sums = plan.outer.sums;
    for (sums = 1; sums < kMostSums; sums *= 2) {
        const std::int64_t next = 2 * sums;
        const std::size_t bytes = static_cast<std::size_t>(next * points * weights) * 4;
        if (next * tasks > kTasksWanted || 2 * next > plan.winograd.blocks) break;
        if (bytes > kTotalsBytes && tiles / next < kManyTiles) break;
        // As they lie: what does not fit would let `auto` decline for some batches only.
        const std::int64_t line = odd_lines(view.channels * panels.width);
        const std::int64_t totals = view.groups * plan.winograd.subkernels() * panels.count * points * line;
        if (static_cast<std::size_t>(next * totals) * 4 > workspace_limit() / 2) break;
    }
}

// Time of the slowest thread, in multiply-adds of the register tile a point. An element of M is read
// and written once a block and read at the end: as long as one in L2, as four in L3.
double relative_time(const ConvPlan& plan, std::int64_t panels) {
    const OuterBlocking& blocking = plan.outer;
    const Correlation& view = plan.phases[0];
    const double channels = static_cast<double>(blocking.part_channels(view.channels));
    const double cols = static_cast<double>(view.cols) *
                        static_cast<double>(ceil_div(panels, blocking.panel_parts)) /
                        static_cast<double>(panels);
    const SumTasks tasks = winograd_sum_tasks(plan);
    const double blocks = static_cast<double>(tasks.longest_stretch(plan.threads));
    const double most_tasks = static_cast<double>(ceil_div(tasks.count(), plan.threads));
    const double block_tiles = static_cast<double>(plan.winograd.block_tiles);
    const double totals = channels * cols;
    const double moved = totals * winograd_variant(plan).points() > kTotalsInL2 ? 4 : 1;
    return blocks * block_tiles * (totals + 12 * channels + 8 * cols) +
           (blocks + most_tasks) * moved * totals;
}

// Parts only decide who computes what.
bool choose_parts(ConvPlan& plan) {
    const Correlation& view = plan.phases[0];
    OuterBlocking& blocking = plan.outer;
    const std::int64_t panels = Panels<float>(*plan.isa->kernels<float>().outer, view.cols).count;
    OuterBlocking best = blocking;
    double best_time = 0;
    for (std::int64_t c = 1; c <= blocking.channel_units(view.channels); c = c < 8 ? c + 1 : c * 5 / 4)
        for (std::int64_t p = 1; p <= panels; p = p < 8 ? p + 1 : p * 5 / 4) {
            blocking.channel_parts = c;
            blocking.panel_parts = p;
            if (winograd_gradient_layout(plan).bytes > kMaxThreadScratch) continue;
            const double time = relative_time(plan, panels);
            if (best_time != 0 && time >= best_time * 0.99) continue;
            best = blocking;
            best_time = time;
        }
    blocking = best;
    return best_time > 0;
}

// ---- whether it pays: by one image, on one thread ----------------------------------------------------
// In multiply-adds of the register tile at full rate, fitted to single-core measurements of 30 layers.
// Starting a sum, its totals and their way to the weight count 27 a tap and weight in direct, 24 a point
// and weight here, once a call. The batch must not choose the algorithm: a quarter is an image's share.
// Blocks of 64 points have fewer tiles, so that totals are read and written more often.

constexpr double kShare = 0.25;

// Pairs of an output position and a tap that falls inside the source.
double products(const AxisTaps& taps, std::int64_t source, std::int64_t out) {
    double count = 0;
    for (std::int64_t tap = 0; tap < taps.count; ++tap) {
        const std::int64_t first = taps.offset + tap;
        const std::int64_t begin = first < 0 ? ceil_div(-first, taps.step) : 0;
        const std::int64_t end = first < source ? ceil_div(source - first, taps.step) : 0;
        count += static_cast<double>(std::max<std::int64_t>(0, std::min(out, end) - begin));
    }
    return count;
}

double padded_cols(const ConvPlan& plan) {
    const Panels<float> panels(*plan.isa->kernels<float>().outer, plan.phases[0].cols);
    return static_cast<double>(panels.padded_cols);
}

double direct_cost(const ConvPlan& plan) {
    const Correlation& view = plan.phases[0];
    const double weights = static_cast<double>(view.channels) * padded_cols(plan);
    const double taps = static_cast<double>(view.taps_h.count * view.taps_w.count);
    return products(view.taps_h, view.source_h, view.out_h) *
               products(view.taps_w, view.source_w, view.out_w) * weights +
           other_work(*plan.isa) * 27 * taps * weights * kShare;
}

double winograd_cost(const ConvPlan& plan, const WinogradVariant<float>& variant) {
    const Correlation& view = plan.phases[0];
    const WinogradWork work = work_of_image(plan, variant, false);
    const double channels = static_cast<double>(std::max<std::int64_t>(view.channels, 16));
    const double cols = padded_cols(plan);
    const bool wide = variant.alpha() > 6, strided = view.taps_h.step * view.taps_w.step > 1;
    const double other = other_work(*plan.isa);
    const double product = wide ? 1.25 : strided ? 1.15 : 1.05, transform = wide ? 15 : 12;
    return static_cast<double>(work.products) *
               (product * channels * cols + other * transform * (channels + cols)) +
           static_cast<double>(plan.winograd.subkernels()) * variant.points() * other * 24 * channels * cols *
               kShare;
}

const char* decline(const ConvPlan& plan) {
    return decline_winograd(plan, direct_cost(plan), winograd_cost);
}

const char* plan_winograd(ConvPlan& plan, int m) {
    start_grad_weight(plan);
    Correlation& view = plan.phases[0];
    OuterBlocking& blocking = plan.outer;
    if (const char* reason = choose_winograd(plan, m)) return reason;
    if (view.channels * view.cols == 0) return "winograd: there are no channels";
    view.gather = view.source.channel_elems != 1;
    const std::int64_t taps = winograd_variant(plan).r;
    view.segments = taps * taps;
    view.depth = view.channels;
    blocking.channel_unit = 16;
    blocking.taps_inside = plan.winograd.subkernels() == 1 && view.taps_h.count == taps &&
                           view.taps_w.count == taps &&
                           blocking.weight_row_elems == taps * blocking.weight_tap_elems &&
                           blocking.weight_channel_elems == taps * taps * blocking.weight_tap_elems;
    plan.winograd.cost = winograd_cost(plan, winograd_variant(plan));
    cut_tiles(plan);
    if (!choose_parts(plan))
        return "winograd: a block of tiles needs more scratch than a thread may have (4 MB)";
    const WinogradGradientLayout layout = winograd_gradient_layout(plan);
    view.scratch_bytes = blocking.scratch_bytes = layout.bytes;
    blocking.total_elems = winograd_totals_elems(plan, layout);
    plan.tasks = winograd_sum_tasks(plan).count();
    plan.winograd.parts = blocking.channel_parts * blocking.panel_parts;
    plan.winograd.pitch = layout.pitch;
    plan.workspace_bytes =
        blocking.sums == 1
            ? 0
            : static_cast<std::size_t>(plan.tasks * blocking.total_elems) * sizeof(float);
    return nullptr;
}

const char* plan_winograd2(ConvPlan& plan) { return plan_winograd(plan, 2); }
const char* plan_winograd4(ConvPlan& plan) { return plan_winograd(plan, 4); }
const char* plan_winograd6(ConvPlan& plan) { return plan_winograd(plan, 6); }

void run(const ConvPlan& plan, const ConvPointers& pointers, void* workspace) {
    run_winograd_gradient(plan, {static_cast<const float*>(pointers.input),
                                 static_cast<const float*>(pointers.output),
                                 static_cast<float*>(pointers.weight),
                                 static_cast<float*>(workspace), pointers.accumulate});
}

}  // namespace

const Candidate conv2d_grad_weight_winograd2{Algorithm::kWinograd2, plan_winograd2, run, decline};
const Candidate conv2d_grad_weight_winograd6{Algorithm::kWinograd6, plan_winograd6, run, decline};
const Candidate conv2d_grad_weight_winograd4{Algorithm::kWinograd4, plan_winograd4, run, decline};

}  // namespace fastconv::cpu

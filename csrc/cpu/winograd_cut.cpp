// The cost model of Winograd's forward and grad_input, and the cut into tasks that it chooses; the loop
// nest is in cpu/conv2d_winograd.cpp.
#include "cpu/winograd_cut.h"

#include <algorithm>
#include <cmath>

#include "core/cache.h"
#include "core/ceil_div.h"
#include "core/parallel.h"
#include "core/workspace.h"
#include "cpu/correlation.h"
#include "cpu/isa.h"
#include "cpu/kernels_gemm.h"
#include "cpu/panels.h"
#include "cpu/winograd_block.h"
#include "cpu/winograd_choice.h"
#include "cpu/winograd_weights.h"

namespace fastconv::cpu {
namespace {

// Of a block, multiples of the register tile's 6 rows; beyond the usual ones only where U, read once a
// block, is not in L2 anyway, and where that gains 1 %.
constexpr std::int64_t kUsualTiles = 48, kMostTiles = 66;

// ---- what it costs, in units of one multiply-add of the register tile at full rate -----------------
// Fitted to single-core measurements; all but the products counts as other_work() says. Products count 12 more
// channels than there are, of vectors narrower than 16 the more, for starting and storing a tile, and 25 more for each
// chunk beyond the first that goes through M; a transform of a tile counts 12 a point and channel, 15 over 8 points, 10
// more where its pixels are put together from those of several phases. V is read from wherever it is beside 64
// products an element, which hides L3; U beside as many as a block has tiles, which does not.

/// Of `share` of an image's tiles.
double tiles_cost(const ConvPlan& plan, const WinogradVariant<float>& variant, const WinogradWork& work,
                  double share, double channels, double cols, double chunks = 1) {
    const double transform = variant.alpha() > 6 ? 15 : 12, fold = plan.winograd.folded ? 10 : 0;
    const double products = share * static_cast<double>(work.products);
    const double points = share * static_cast<double>(work.points);
    const double lanes = plan.isa->kernels<float>().gemm->lanes, start = 12 * std::max(1.0, 16 / lanes);
    const double width = std::max(cols, lanes);
    const double other = other_work(*plan.isa);
    return products * (1.1 * (channels + other * (start + 25 * (chunks - 1))) * width +
                       other * (transform + fold) * std::max(channels, 16.0)) +
           points * other * transform * std::max(cols, 16.0);
}

double chunks_of(double channels) { return std::ceil(channels / kWinogradChunk); }

/// Transforming a weight in cache: packing each tap, unless they are read in place, and making each point.
double weight_cost(const ConvPlan& plan, const WinogradVariant<float>& variant) {
    const double make_point = variant.r == 3 ? 9 : variant.r == 4 ? 12 : 16;
    const bool packs = !WinogradWeights(plan, weight_view<float>(plan, nullptr)).in_place();
    const Correlation& phase = plan.phases[0];
    const double taps = static_cast<double>(phase.taps_h.count * phase.taps_w.count * phase.channels) /
                        static_cast<double>(plan.winograd.subkernels() * plan.winograd.channels);
    return other_work(*plan.isa) * ((packs ? kPackTapCost * taps : 0) + make_point * variant.points());
}

constexpr double kElementsInL2 = 1 << 18, kElementsInL3 = 1 << 22;  // of U: 1 MB, 16 MB

bool in_l2(const WinogradVariant<float>& variant, double weights) {
    return variant.points() * weights < kElementsInL2;
}

/// Reading a weight's points, each block anew.
double read_cost(const ConvPlan& plan, const WinogradVariant<float>& variant, double weights) {
    return other_work(*plan.isa) * variant.points() * (in_l2(variant, weights) ? 1 : 9);
}

/// Transforming all weights once a call, the points leaving the core's caches: 14 or 50 to write one, 29 to
/// read one from another core's L2, and 3 us until all threads are there.
double once_cost(const ConvPlan& plan, const WinogradVariant<float>& variant, double weights,
                 std::int64_t threads) {
    constexpr double kMeet = 360e3, kFromOther = 29;
    const std::int64_t transform = std::min(threads, transform_tasks(plan));
    const double elements = variant.points() * weights, share = 1 / static_cast<double>(transform);
    const double to_memory = elements < kElementsInL2 ? 0 : elements < kElementsInL3 ? 14 : 50;
    const double other = other_work(*plan.isa);
    const double own = (weights * weight_cost(plan, variant) + other * elements * to_memory) * share;
    if (threads == 1) return own;
    const double others = transform < threads ? 1 : 1 - share;  // of what a thread reads
    return own + other * (kMeet + (elements < kElementsInL2 ? elements * others * kFromOther : 0));
}

/// Reading U that lies in L3, once a thread, as far as others made it. Within one L3 that costs next to nothing (8: as
/// 4 % of a task, which was measured to do). AMD's cores lie in several, and virtual ones in one for minutes and then
/// in two, where it costs 140 to 210 (halved by other_work()): batch 8, 256 -> 256 on 14x14 3.7 or 5.2 ms, 160 -> 320
/// 2.9 or 4.3. 60 stands for both. Parts of the columns, one a thread, and U by task need nothing of others' U.
double sharing_cost(const ConvPlan& plan, double elements) {
    if (plan.threads == 1 || elements < kElementsInL2 || elements >= kElementsInL3) return 0;
    const double others = 1 - 1 / static_cast<double>(plan.threads);
    return other_work(*plan.isa) * (fetches_near() ? 60 : 8) * elements * others;
}

/// V and M of a block beyond three tenths of L2 crowd it where U is there too; beyond half of it they wait for
/// L3; the less, the smaller U is than that of 64 channels and columns. Fitted with 2 MB of L2; with 1 MB (Zen 4)
/// 64 -> 64 on 224x224 takes 0.96 of the time with 12 or 18 tiles a block instead of 30.
double crowding_cost(double block_elems, double u_elems) {
    constexpr double kUsualU = 36 * 64 * 64;
    const double l2_elems = static_cast<double>(l2_bytes()) / sizeof(float);
    if (block_elems < 0.29 * l2_elems) return 0;
    return (block_elems < 0.5 * l2_elems ? 7 : 15) * block_elems * std::min(1.0, u_elems / kUsualU);
}

/// The ways to cut tiles into blocks and columns into parts, and who transforms the weights unless they were
/// packed ahead: all threads once a call, or each task for itself. All give the same bits.
class Splits {
public:
    explicit Splits(const ConvPlan& plan)
        : plan_(plan), phase_(plan.phases[0]), variant_(winograd_variant(plan)),
          panels_(*plan.isa->kernels<float>().gemm, phase_.cols),
          vectors_(panels_.padded_cols / plan.isa->kernels<float>().gemm->lanes),
          channels_(static_cast<double>(plan.winograd.channels)), cols_(static_cast<double>(phase_.cols)),
          subkernels_(static_cast<double>(plan.winograd.subkernels())),
          weights_(channels_ * cols_ * subkernels_ * static_cast<double>(phase_.groups)),
          work_(work_of_image(plan, variant_, true)), made_(weight_cost(plan, variant_)),
          read_(read_cost(plan, variant_, weights_)),
          once_(plan.packed_format != 0 ? 0 : once_cost(plan, variant_, weights_, plan.threads)),
          shared_(plan.packed_format != 0 ? 0 : sharing_cost(plan, variant_.points() * weights_)) {}

    std::int64_t most_tiles() const { return in_l2(variant_, weights_) ? kUsualTiles : kMostTiles; }

    std::int64_t most_parts(bool by_task) const {
        return std::max<std::int64_t>(1, by_task ? vectors_ : panels_.count);
    }

    /// Of the slowest thread.
    double time(std::int64_t blocks, std::int64_t block_tiles, std::int64_t parts, bool by_task) const {
        const std::int64_t units = most_parts(by_task);  // that parts are cut at
        const double cols = cols_ * static_cast<double>(ceil_div(units, parts)) / static_cast<double>(units);
        const double tiles = static_cast<double>(block_tiles);
        const double share = tiles / static_cast<double>(plan_.winograd.tiles());
        const double block_elems =
            variant_.points() * tiles *
            (channels_ + (subkernels_ > 1 ? cols : std::min(cols, static_cast<double>(panels_.width))));
        const double u_elems = variant_.points() * std::min(channels_, static_cast<double>(kWinogradChunk)) *
                               std::min(cols, static_cast<double>(panels_.width));
        // Of several blocks the parts' threads each read the whole source; of one they read it together.
        const double again =
            parts > 1 && blocks > 1 ? 6 * variant_.points() * tiles * channels_ * subkernels_ : 0;
        const double task =
            other_work(*plan_.isa) * (crowding_cost(block_elems, u_elems) + again) +
            channels_ * cols * subkernels_ * (by_task ? made_ : read_) +
            tiles_cost(plan_, variant_, work_, share, channels_, cols, by_task ? chunks_of(channels_) : 1);
        const double once = once_ + (phase_.groups * parts < plan_.threads ? shared_ : 0);
        const auto rounds = static_cast<double>(ceil_div(phase_.groups * blocks * parts, plan_.threads));
        return (by_task ? 0 : once) + task * rounds;
    }

private:
    const ConvPlan& plan_;
    const Correlation& phase_;
    const WinogradVariant<float>& variant_;
    Panels<float> panels_;
    std::int64_t vectors_;
    double channels_, cols_, subkernels_, weights_;  // the last: subkernels of all channels and columns
    WinogradWork work_;
    double made_, read_;  // of a weight's points: transforming them, or reading them
    double once_, shared_;
};

/// Takes the best of the splits that fit into a thread's scratch; false where none does.
bool take_best(ConvPlan& plan, bool once, bool by_task) {
    WinogradPlan& winograd = plan.winograd;
    const Splits splits(plan);
    const std::int64_t tiles = winograd.tiles() * plan.phases[0].batch;
    double best = 0;
    for (std::int64_t size = splits.most_tiles(); size >= 6; size -= 6) {
        double accepted = size >= kUsualTiles ? 1.01 : 0.99;
        for (const bool tasks_transform : {false, true}) {
            if (tasks_transform ? !by_task : !once) continue;
            for (std::int64_t parts = 1; parts <= splits.most_parts(tasks_transform); parts *= 2) {
                const std::int64_t blocks = ceil_div(tiles, size), block_tiles = ceil_div(tiles, blocks);
                const double time = splits.time(blocks, block_tiles, parts, tasks_transform);
                if (best != 0 && time >= best * accepted) continue;
                const WinogradPlan before = winograd;
                winograd.blocks = blocks;
                winograd.block_tiles = block_tiles;
                winograd.parts = parts;
                winograd.weights_by_task = tasks_transform;
                if (winograd_layout(plan, winograd_variant(plan)).bytes > kMaxBlockScratch)
                    winograd = before;
                else best = time, accepted = 0.99;
            }
        }
    }
    return best > 0;
}

}  // namespace

// A workspace beyond the limit would let `auto` decline for some batches and threads only.
bool cut_winograd(ConvPlan& plan) {
    const bool packed = plan.packed_format != 0;
    plan.winograd.weights_by_task = !packed;
    if (plan.winograd.tiles() * plan.phases[0].batch == 0) return true;
    const std::size_t u = static_cast<std::size_t>(TransformedWeights(plan).elems()) * sizeof(float);
    const bool fits = packed || u <= workspace_limit();
    return take_best(plan, fits, !packed) || (!fits && take_best(plan, true, false));
}

double winograd_cost(const ConvPlan& plan, const WinogradVariant<float>& variant) {
    const Correlation& phase = plan.phases[0];
    const double tiles = static_cast<double>(ceil_div(phase.out_h, variant.m) *
                                             ceil_div(phase.out_w, variant.m));
    // Few products at a time wait for each other: of those left out at the edges nothing is gained.
    const bool enough = tiles * vectors_for(*plan.isa->kernels<float>().gemm, phase.cols) >= 16;
    const WinogradWork work = work_of_image(plan, variant, enough);
    const double channels = static_cast<double>(plan.winograd.channels);
    const double cols = static_cast<double>(phase.cols);
    const double all = channels * cols * static_cast<double>(plan.winograd.subkernels());
    const double blocks = std::ceil(tiles / kUsualTiles);
    const double by_task = tiles_cost(plan, variant, work, 1, channels, cols, chunks_of(channels)) +
                           all * blocks * weight_cost(plan, variant);
    const double once =
        tiles_cost(plan, variant, work, 1, channels, cols) +
        once_cost(plan, variant, all, 1) + all * blocks * read_cost(plan, variant, all);
    // Layers keep the weights of forward packed: a U beyond L3 then comes from memory, as two cores of a Zen 4 do
    // with 16 multiply-adds an element. 512 -> 512 on 7x7 from memory 1.38 ms, direct 0.90.
    const double points = variant.points() * all;
    const bool from_memory = plan.direction == Direction::kForward && points >= kElementsInL3;
    const double reading = 32 * other_work(*plan.isa) * points;
    // A point of 5x5 weights takes 22 in the call by itself, which the cut must not know: U made once a call would
    // look as cheap as by task, and is not where the cores lie in two L3.
    const double slower = variant.r == 5 ? 6 * other_work(*plan.isa) * variant.points() * all : 0;
    return std::max(std::min(by_task, once) + slower, from_memory ? reading : 0);
}

}  // namespace fastconv::cpu

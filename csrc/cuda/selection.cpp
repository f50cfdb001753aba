// The cost model of cuda/selection.h. Its rates are the data sheets' per multiprocessor and cycle; the
// shares of them that kernels reach stand in the kernel tables.
#include "cuda/selection.h"

#include <algorithm>

#include "core/ceil_div.h"

namespace fastconv::cuda {
namespace {

// Fitted on an H100 (132 multiprocessors at about 1.755 GHz) to 325 times of forward and grad_input in
// bfloat16, batch 32, layers of VGG-16, ResNet-50 and AlexNet by every kernel: 13 % root mean square.
constexpr double kBaseCycles = 12300;       // of the first launch, and of memory that is cold
constexpr double kJoinCycles = 10900;       // of a further kernel that joins splits
constexpr double kPrologueCycles = 1200;    // until a block's first tiles have arrived
constexpr double kStepLatency = 1200;       // of a step; blocks that run together hide each other's
constexpr double kEpilogueBytesPerCycle = 9.5;
constexpr double kL2BytesPerCycle = 40;     // to one multiprocessor, all being busy
constexpr double kMemoryBytesPerCycle = 13; // and from device memory

/// The operands and the result, each once.
double bytes_of(const MatrixProblem& problem) {
    const double m = static_cast<double>(problem.m), n = static_cast<double>(problem.n);
    const double terms = static_cast<double>(problem.terms);
    const double source = static_cast<double>(problem.source_pixels * problem.channels);
    return (source + m * n + terms * (problem.grad_weight ? m : n)) *
           static_cast<double>(problem.groups) * problem.element_bytes;
}

/// Multiply-adds a multiprocessor does in a cycle.
double rate_of(const MatrixProblem& problem, const DeviceInfo& device) {
    if (!problem.tensor_cores) return device.capability == 75 || device.capability == 80 ? 64 : 128;
    const bool data_center = device.capability >= 90 && device.capability < 120;
    const double full = data_center ? 1280 : device.capability == 80 ? 1024 : 512;
    if (problem.arithmetic == Arithmetic::k3xTf32) return full / 6;
    return problem.arithmetic == Arithmetic::kTf32 ? full / 2 : full;
}

double cycles_of(const MatrixProblem& problem, const TileShape& tile, const DeviceInfo& device,
                 std::int64_t tiles, int splits, std::int64_t per_split) {
    const double steps = static_cast<double>(ceil_div(per_split, tile.step));
    const double arithmetic = static_cast<double>(tile.tile_m * tile.tile_n * tile.step) /
                              (rate_of(problem, device) * tile.efficiency);
    const double traffic = static_cast<double>((tile.tile_m + tile.tile_n) * tile.step) *
                           problem.element_bytes / kL2BytesPerCycle;
    const bool partial = splits > 1 || problem.always_partial;
    const double stored = static_cast<double>(tile.tile_m * tile.tile_n) *
                          (partial ? 4 : problem.element_bytes) / kEpilogueBytesPerCycle;

    // Blocks on one multiprocessor share its rate; alone, a block cannot hide its own latencies.
    const std::int64_t on_one =
        std::max<std::int64_t>(ceil_div(tiles * splits, device.multiprocessors), 1);
    const double together = static_cast<double>(
        std::min<std::int64_t>(on_one, tile.blocks_per_multiprocessor));
    const double hidden = 0.6 + 0.4 * together / tile.blocks_per_multiprocessor;
    const double step = std::max({arithmetic / hidden, traffic, kStepLatency / together});
    const double share = problem.mean_terms > 0
                             ? problem.mean_terms / static_cast<double>(problem.terms) : 1;
    const double main = std::max(static_cast<double>(on_one) * (share * steps * step + stored),
                                 steps * step + stored);  // no less than the longest block
    double cycles = main +
                    static_cast<double>(ceil_div(on_one, tile.blocks_per_multiprocessor)) *
                        kPrologueCycles;

    const double bandwidth = kMemoryBytesPerCycle * std::max(device.multiprocessors, 1);
    const double result = static_cast<double>(problem.m * problem.n * problem.groups);
    cycles = std::max(cycles, result * problem.element_bytes / bandwidth) + kBaseCycles;
    if (partial) cycles += kJoinCycles + result * (4.0 * splits + problem.element_bytes) / bandwidth;
    return cycles;
}

// Of kernels by TMA, which are persistent: a block a multiprocessor. Fitted on an H100 (132
// multiprocessors at about 1.755 GHz) to 2439 times in bfloat16, batch 32, L2 cold: 34 layers of
// VGG-16, ResNet-50 and AlexNet, three directions, every kernel, clusters of 1, 2 and 4;
// grad_weight into a weight in C order, which a further kernel turns.
//
//                                                      forward  grad_input  grad_weight
//   root mean square error of log time                  10 %       9 %        12 %
//   of kernels within a third of the best                8 %       8 %        10 %
//   chosen kernel's time over the best's, mean        1.008      1.007       1.011
//   and at worst                                       1.07       1.06        1.14
//
// Fitted to half of the layers, it chose kernels 1.5 and 1.9 % slower than the best for the others.
constexpr double kWgmmaRate = 2048;           // multiply-adds a cycle
constexpr double kMappedBaseCycles = 11000;   // of the launch, and of memory that is cold
constexpr double kIm2colCycles = 1.9, kTiledCycles = 1.55;  // TMA's, a line of 128 bytes
constexpr double kOutsideCycles = 6.5;        // a line beyond the tensor's end, of zeros
constexpr double kPatchCycles = 1330;         // until a patch is there: only one is on its way
constexpr double kTileCycles = 1260;          // from one tile to the next
constexpr double kStoredBytesPerCycle = 24;   // to the result by TMA
constexpr double kScatteredBytesPerCycle = 6.5;  // and where it cannot
constexpr double kPartialBytesPerCycle = 12;
constexpr double kAloneSteps = 4.6;           // of a tile that memory neither waits nor works for
constexpr double kColdBytesPerCycle = 19;     // a multiprocessor; some results stay in L2
constexpr double kClusterCycles = 11000;      // of a cluster's launch and its two barriers
constexpr double kClusterBytesPerCycle = 13.5;
constexpr double kAddCycles = 7000;           // of a further kernel that adds partial sums
constexpr double kAddedBytesPerCycle = 40;    // mostly from L2
constexpr double kTurnedBytesPerCycle = 11.4; // where it turns the weight, for which a result
constexpr double kTurnedBytes = 18;           // counts as this many
constexpr std::int64_t kMappedTerms = 64;     // a step, and a panel

struct ClusterShape {
    int cluster = 1, splits = 1;
};

/// `terms` where channels come in whole panels, tap by tap.
std::int64_t in_panels(const MatrixProblem& problem, std::int64_t terms) {
    const std::int64_t channels = std::max<std::int64_t>(problem.channels, 1);
    return terms / channels * ceil_div(channels, kMappedTerms) * kMappedTerms;
}

/// Lines of a tile that lie within `size` of them, on average.
double lines_inside(std::int64_t inside, std::int64_t size, std::int64_t tile) {
    return static_cast<double>(inside) /
           static_cast<double>(std::max<std::int64_t>(ceil_div(size, tile), 1));
}

/// Cycles in which TMA brings a step. Zeros take it longer than what L2 has.
double copy_cycles(const MatrixProblem& problem, const TileShape& tile, double share) {
    const auto panels = [](std::int64_t size) { return size / kMappedTerms * kMappedTerms; };
    const std::int64_t n = problem.grad_weight ? in_panels(problem, problem.n) : problem.n;
    const double cols = lines_inside(panels(n), n, tile.tile_n);
    const std::int64_t phase_rows = ceil_div(problem.m, std::max<std::int64_t>(problem.phases, 1));
    const double rows =
        problem.grad_weight ? lines_inside(panels(problem.m), problem.m, tile.tile_m)
                            : lines_inside(phase_rows, phase_rows, tile.tile_m);
    const double outside_rows = static_cast<double>(tile.tile_m) - rows;
    const double outside_cols = static_cast<double>(tile.tile_n) - cols;
    if (tile.patches > 0 && problem.grad_weight)
        return (rows + 100) * kTiledCycles + outside_rows * kOutsideCycles;
    if (tile.patches > 0) {
        const double taps = share * static_cast<double>(problem.terms) /
                            static_cast<double>(std::max<std::int64_t>(problem.channels, 1));
        return (tile.patches * problem.patch_lines_a_step / share + cols) * kTiledCycles +
               outside_cols * kOutsideCycles + kPatchCycles / taps;
    }
    const double source_cycles = problem.lines ? kTiledCycles : kIm2colCycles;
    return (problem.grad_weight ? rows * kTiledCycles + cols * source_cycles
                                : rows * source_cycles + cols * kTiledCycles) +
           (outside_rows + outside_cols) * kOutsideCycles;
}

/// Cycles from a tile's last product to the next one's first.
double store_cycles(const MatrixProblem& problem, const TileShape& tile, const ClusterShape& shape,
                    bool partial) {
    const double area = static_cast<double>(tile.tile_m * tile.tile_n);
    const double bytes = area * (partial ? 4 : problem.element_bytes);
    if (shape.cluster > 1)
        return kClusterCycles + (area * 4 + bytes) / kClusterBytesPerCycle / shape.cluster;
    const std::int64_t lines = problem.grad_weight ? problem.m : problem.n;
    const bool scattered = (problem.groups > 1 && lines % kMappedTerms != 0) ||
                           (problem.phases > 1 && tile.patches == 0);
    return kTileCycles + bytes / (partial     ? kPartialBytesPerCycle
                                  : scattered ? kScatteredBytesPerCycle
                                              : kStoredBytesPerCycle);
}

double cycles_of(const MatrixProblem& problem, const TileShape& tile, const DeviceInfo& device,
                 std::int64_t tiles, double steps, const ClusterShape& shape) {
    const double area = static_cast<double>(tile.tile_m * tile.tile_n);
    const double share = problem.mean_terms > 0
                             ? problem.mean_terms / static_cast<double>(problem.terms) : 1;
    const double step = std::max(area * kMappedTerms / (kWgmmaRate * tile.efficiency),
                                 copy_cycles(problem, tile, share));
    const bool partial = shape.splits > 1 || problem.always_partial;
    const double stored = store_cycles(problem, tile, shape, partial);
    const int all = std::max(device.multiprocessors, 1);
    // Larger clusters do not fill all of the groups that multiprocessors come in.
    const int usable = std::max((shape.cluster > 2 ? all * 9 / 10 : all) / shape.cluster, 1);
    const auto waves = static_cast<double>(ceil_div(tiles * shape.splits, std::int64_t{usable}));

    const double main = std::max(waves * share, 1.0) * steps * step + waves * stored;
    const double memory = bytes_of(problem) / (kColdBytesPerCycle * all) +
                          std::min(steps * share, kAloneSteps) * step + stored;
    const double cycles = kMappedBaseCycles + std::max(main, memory);
    if (!partial) return cycles;
    const double result = static_cast<double>(problem.m * problem.n * problem.groups);
    const double added =
        problem.always_partial
            ? result * (4.0 * shape.splits + kTurnedBytes) / kTurnedBytesPerCycle
            : result * (4.0 * shape.splits + problem.element_bytes) / kAddedBytesPerCycle;
    return cycles + kAddCycles + added / all;
}

}  // namespace

Split best_clusters(const MatrixProblem& problem, const TileShape& tile, const DeviceInfo& device,
                    std::int64_t workspace) {
    const std::int64_t n = problem.grad_weight ? in_panels(problem, problem.n) : problem.n;
    const std::int64_t terms =
        problem.grad_weight ? problem.terms : in_panels(problem, problem.terms);
    const std::int64_t phases = std::max<std::int64_t>(problem.phases, 1);
    const std::int64_t steps = std::max<std::int64_t>(ceil_div(terms, kMappedTerms), 1);
    const std::int64_t result_bytes = problem.m * problem.n * problem.groups * 4;
    const std::int64_t rows =
        tile.patches > 0 && !problem.grad_weight ? problem.tile_rows : problem.m;
    Split best;
    best.tiles = phases * ceil_div(ceil_div(rows, phases), tile.tile_m) *
                 ceil_div(n, tile.tile_n) * problem.groups;
    best.cycles = -1;
    const int most_splits = problem.grad_weight ? 128 : 1;
    for (int wanted = 1; wanted <= most_splits && wanted <= steps;
         wanted = wanted < 8 ? wanted + 1 : wanted * 5 / 4) {
        const std::int64_t per_split = ceil_div(steps, wanted);
        const int splits = static_cast<int>(ceil_div(steps, per_split));
        if (splits > 1 && splits * result_bytes > workspace) break;
        for (int cluster = 1; cluster <= 8; cluster *= 2) {
            // With partial sums beside, a cluster never paid; nor does a step or two a block.
            if (cluster > 1 && (splits > 1 || per_split < 2 * cluster)) break;
            const auto each = static_cast<double>(ceil_div(per_split, std::int64_t{cluster}));
            const double cycles =
                cycles_of(problem, tile, device, best.tiles, each, {cluster, splits});
            if (best.cycles >= 0 && cycles >= best.cycles) continue;
            best.cycles = cycles;
            best.splits = splits;
            best.cluster = cluster;
            best.per_split = static_cast<int>(per_split * kMappedTerms);
        }
    }
    return best;
}

Split best_split(const MatrixProblem& problem, const TileShape& tile, const DeviceInfo& device,
                 std::int64_t workspace) {
    Split best;
    const std::int64_t phases = std::max<std::int64_t>(problem.phases, 1);
    best.tiles = phases * ceil_div(ceil_div(problem.m, phases), tile.tile_m) *
                 ceil_div(problem.n, tile.tile_n) * problem.groups;
    const std::int64_t steps = std::max<std::int64_t>(ceil_div(problem.terms, tile.step), 1);
    const std::int64_t result_bytes = problem.m * problem.n * problem.groups * 4;
    best.cycles = -1;
    for (int wanted = 1; wanted <= 1024 && wanted <= steps; wanted = wanted < 8 ? wanted + 1
                                                                               : wanted * 5 / 4) {
        const std::int64_t per_split = ceil_div(steps, wanted) * tile.step;
        const int splits = static_cast<int>(std::max<std::int64_t>(
            ceil_div(problem.terms, per_split), 1));
        if (splits > 1 && (splits * result_bytes > workspace || per_split < 4 * tile.step)) break;
        const double cycles = cycles_of(problem, tile, device, best.tiles, splits, per_split);
        if (best.cycles < 0 || cycles < best.cycles) {
            best.cycles = cycles;
            best.splits = splits;
            best.per_split = static_cast<int>(per_split);
        }
        if (best.tiles * splits > 8 * std::int64_t{device.multiprocessors} *
                                      tile.blocks_per_multiprocessor)
            break;  // more blocks only cost more
    }
    // No kernel is faster than memory; those that would be keep their order.
    const double bandwidth = kMemoryBytesPerCycle * std::max(device.multiprocessors, 1);
    const double memory = kBaseCycles + bytes_of(problem) / bandwidth;
    best.cycles = std::max(best.cycles, memory + best.cycles / 10);
    return best;
}

}  // namespace fastconv::cuda

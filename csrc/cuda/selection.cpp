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

}  // namespace

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
    return best;
}

}  // namespace fastconv::cuda

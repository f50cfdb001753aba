// Where pooling's windows stand, as runs of positions that see their taps alike.
//
// Forward, regular:   window p begins at p * stride - pad_lo. Windows that lie within the input
//                     form one run; those at the edges are clipped and stand alone.
// Forward, adaptive:  window p is [floor(p H / P), ceil((p + 1) H / P)), as in PyTorch; one run
//                     where P divides H, else one a window.
// Gradients:          element h = a + stride * j (phase a) lies in windows p_k + j for the kernel's
//                     taps k with (a + pad_lo - k * dilation) divisible by the stride: one run a
//                     phase, and its edges alone. Windows of unequal divisors go into runs of their
//                     own (`again`).
#include <numeric>

#include "core/ceil_div.h"
#include "cpu/pool2d.h"

namespace fastconv::cpu {
namespace {

std::int64_t adaptive_begin(const Axis& axis, std::int64_t p) {
    return p * axis.in / axis.out;
}
std::int64_t adaptive_end(const Axis& axis, std::int64_t p) {
    return ceil_div((p + 1) * axis.in, axis.out);
}

/// The taps of regular window p that fall on the input, and its part of the average's divisor.
PoolRun clipped_window(const PoolProblem& problem, const Axis& axis, std::int64_t p) {
    const std::int64_t start = p * axis.stride - axis.pad_lo;
    const std::int64_t first = start < 0 ? ceil_div(-start, axis.dilation) : 0;
    const std::int64_t last =
        start < axis.in ? std::min(axis.kernel, ceil_div(axis.in - start, axis.dilation)) : 0;
    PoolRun run;
    run.target = p;
    run.source = start + first * axis.dilation;
    run.source_step = axis.stride;
    run.tap_step = axis.dilation;
    run.taps = std::max<std::int64_t>(0, last - first);
    run.divisor = run.taps;
    if (problem.count_include_pad)  // averages have no dilation
        run.divisor = std::min(start + axis.kernel, axis.in + axis.pad_hi) - start;
    run.divisor = std::max<std::int64_t>(1, run.divisor);
    if (problem.divisor_override != 0) run.divisor = 1;
    return run;
}

/// The windows that lie within the input: [lo, hi).
Extent inner_windows(const Axis& axis) {
    const std::int64_t room = axis.in + axis.pad_lo - axis.extent();
    const std::int64_t lo = std::min(ceil_div(axis.pad_lo, axis.stride), axis.out);
    const std::int64_t hi = std::min(window_count(room, axis.stride), axis.out);
    return {lo, std::max(lo, hi)};
}

std::vector<PoolRun> regular_forward(const PoolProblem& problem, const Axis& axis) {
    std::vector<PoolRun> runs;
    const Extent inner = inner_windows(axis);
    for (std::int64_t p = 0; p < axis.out; ++p) {
        runs.push_back(clipped_window(problem, axis, p));
        if (p == inner.lo && inner.size() > 0) {
            runs.back().count = inner.size();
            p = inner.hi - 1;
        }
    }
    return runs;
}

std::vector<PoolRun> adaptive_forward(const Axis& axis) {
    std::vector<PoolRun> runs;
    const bool uniform = axis.in % axis.out == 0;
    for (std::int64_t p = 0; p < (uniform ? 1 : axis.out); ++p) {
        PoolRun run;
        run.target = p;
        run.count = uniform ? axis.out : 1;
        run.source = adaptive_begin(axis, p);
        run.source_step = axis.in / axis.out;
        run.taps = run.divisor = adaptive_end(axis, p) - run.source;
        runs.push_back(run);
    }
    return runs;
}

/// Adds windows [p, ...] of one element, `taps` of them `tap_step` apart, in runs of one divisor.
template <class Divisor>
void add_element(std::vector<PoolRun>& runs, std::int64_t element, std::int64_t p,
                 std::int64_t taps, std::int64_t tap_step, Divisor divisor) {
    PoolRun run;
    run.target = element;
    run.tap_step = tap_step;
    run.source_step = 1;
    const std::size_t before = runs.size();
    for (std::int64_t k = 0; k < taps; ++k, p += tap_step) {
        if (runs.size() == before || runs.back().divisor != divisor(p)) {
            run.again = runs.size() > before;
            run.source = p;
            run.divisor = divisor(p);
            runs.push_back(run);
        }
        ++runs.back().taps;
    }
    if (taps == 0) runs.push_back(run);
}

/// Phase a of the gradient: elements a, a + stride, ...
void add_phase(std::vector<PoolRun>& runs, const PoolProblem& problem, const Axis& axis,
               const Extent& alike, std::int64_t a) {
    const std::int64_t count = ceil_div(axis.in - a, axis.stride);
    const std::int64_t period = axis.stride / std::gcd(axis.stride, axis.dilation);
    const std::int64_t candidates = std::min(period, axis.kernel);
    std::int64_t first = 0;
    while (first < candidates && (a + axis.pad_lo - first * axis.dilation) % axis.stride != 0) ++first;
    PoolRun phase;
    phase.target = a;
    phase.target_step = axis.stride;
    phase.source_step = 1;
    phase.tap_step = period * axis.dilation / axis.stride;
    if (first < candidates) phase.taps = (axis.kernel - 1 - first) / period + 1;
    // By rising window, that is by falling k: the order in which scattering would add.
    const std::int64_t reach = (phase.taps - 1) * phase.tap_step;
    phase.source = (a + axis.pad_lo - first * axis.dilation) / axis.stride - reach;
    if (phase.taps == 0) {
        phase.count = count;
        runs.push_back(phase);
        return;
    }
    const auto divisor = [&](std::int64_t p) {
        return problem.max() ? 1 : clipped_window(problem, axis, p).divisor;
    };
    phase.divisor = alike.size() > 0 ? divisor(alike.lo) : 1;
    const std::int64_t lo = std::max<std::int64_t>(0, alike.lo - phase.source);
    const std::int64_t hi = std::min(count, alike.hi - phase.source - reach);
    for (std::int64_t j = 0; j < count; ++j) {
        if (j == lo && hi > lo) {
            PoolRun run = phase;
            run.target += lo * axis.stride;
            run.source += lo;
            run.count = hi - lo;
            runs.push_back(run);
            j = hi - 1;
            continue;
        }
        // Taps k with 0 <= phase.source + j + k * tap_step < out.
        std::int64_t begin = 0, end = phase.taps;
        while (begin < end && phase.source + j + begin * phase.tap_step < 0) ++begin;
        while (end > begin && phase.source + j + (end - 1) * phase.tap_step >= axis.out) --end;
        add_element(runs, a + j * axis.stride, phase.source + j + begin * phase.tap_step,
                    end - begin, phase.tap_step, divisor);
        runs.back().target_step = axis.stride;
    }
}

std::vector<PoolRun> regular_backward(const PoolProblem& problem, const Axis& axis) {
    std::vector<PoolRun> runs;
    // Windows whose divisors are alike: all of them unless an average counts what it holds.
    Extent alike{0, axis.out};
    if (!problem.max() && problem.divisor_override == 0) {
        alike = inner_windows(axis);
        if (problem.count_include_pad) {
            const std::int64_t room = axis.in + axis.pad_lo + axis.pad_hi - axis.kernel;
            alike = {0, std::min(axis.out, window_count(room, axis.stride))};
        }
    }
    for (std::int64_t a = 0; a < std::min(axis.stride, axis.in); ++a)
        add_phase(runs, problem, axis, alike, a);
    return runs;
}

std::vector<PoolRun> adaptive_backward(const PoolProblem& problem, const Axis& axis) {
    std::vector<PoolRun> runs;
    if (axis.out == 1) {  // every element has the one window
        PoolRun run;
        run.count = run.divisor = axis.in;
        run.taps = 1;
        return {run};
    }
    const auto divisor = [&](std::int64_t p) {
        return problem.max() ? 1 : adaptive_end(axis, p) - adaptive_begin(axis, p);
    };
    std::int64_t lo = 0, hi = 0;
    for (std::int64_t h = 0; h < axis.in; ++h) {
        while (adaptive_end(axis, lo) <= h) ++lo;
        while (hi < axis.out && adaptive_begin(axis, hi) <= h) ++hi;
        add_element(runs, h, lo, hi - lo, 1, divisor);
    }
    return runs;
}

/// Neighbouring elements of the same taps, each a run of its own, become one run that stays where its
/// taps are: all of them where one window holds the image.
std::vector<PoolRun> merge_equal(std::vector<PoolRun> runs) {
    std::vector<PoolRun> merged;
    for (const PoolRun& run : runs) {
        PoolRun* last = merged.empty() ? nullptr : &merged.back();
        const bool equal = last && run.count == 1 && last->source == run.source &&
                           (last->count == 1 || last->source_step == 0) &&
                           last->taps == run.taps && last->tap_step == run.tap_step &&
                           last->divisor == run.divisor && last->again == run.again &&
                           run.target > last->target;
        const std::int64_t step = equal ? run.target - last->target : 0;
        if (equal && (last->count == 1 || step == last->count * last->target_step)) {
            if (last->count == 1) last->target_step = step;
            last->source_step = 0;
            ++last->count;
        } else {
            merged.push_back(run);
        }
    }
    return merged;
}

}  // namespace

std::vector<PoolRun> pool_runs(const PoolProblem& problem, const Axis& axis) {
    if (!problem.adaptive)
        return problem.backward() ? merge_equal(regular_backward(problem, axis))
                                  : regular_forward(problem, axis);
    if (!problem.backward()) return adaptive_forward(axis);
    if (axis.out > 1 && axis.in % axis.out == 0) {
        Axis regular = axis;
        regular.kernel = regular.stride = axis.in / axis.out;
        regular.dilation = 1;
        regular.pad_lo = regular.pad_hi = 0;
        return regular_backward(problem, regular);
    }
    return adaptive_backward(problem, axis);
}

Extent source_extent(const std::vector<PoolRun>& runs, std::int64_t begin, std::int64_t end) {
    Extent extent;
    bool any = false;
    for (const PoolRun& run : runs) {
        const RunPart part = clip_run(run, begin, end);
        if (part.first >= part.last || run.taps == 0) continue;
        const std::int64_t reach = (run.taps - 1) * run.tap_step;
        const std::int64_t first = run.source + part.first * run.source_step;
        const std::int64_t last = run.source + (part.last - 1) * run.source_step;
        const std::int64_t lo = first + std::min<std::int64_t>(0, reach);
        const std::int64_t hi = last + std::max<std::int64_t>(0, reach) + 1;
        extent.lo = any ? std::min(extent.lo, lo) : lo;
        extent.hi = any ? std::max(extent.hi, hi) : hi;
        any = true;
    }
    return extent;
}

}  // namespace fastconv::cpu

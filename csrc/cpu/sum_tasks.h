// How the sums of a weight gradient become tasks: the weight is cut into parts, and the chunks that each
// element of it sums into runs, each with a total of its own. A task has one part and one run.
//
// The runs follow from the shape alone (they fix the bits), the parts do not. Runs of one length: tasks of
// the same chunks follow each other, which read the same pixels. Else the runs of a part do, so that
// threads with as many tasks have about as many chunks: three chunks in two runs are one and two.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastconv::cpu {

struct SumTasks {
    std::int64_t parts = 1, sums = 1, chunks = 0;

    std::int64_t count() const { return parts * sums; }
    std::int64_t part(std::int64_t task) const { return take_turns() ? task / sums : task % parts; }
    std::int64_t sum(std::int64_t task) const { return take_turns() ? task % sums : task / parts; }
    /// The run of `sum` is [begin(sum), begin(sum + 1)).
    std::int64_t begin(std::int64_t sum) const { return chunks * sum / sums; }

    /// The most chunks, counted once a part, in the stretch of tasks that a thread begins with.
    std::int64_t longest_stretch(int threads) const {
        std::int64_t longest = 0;
        for (std::int64_t t = 0; t < std::min<std::int64_t>(threads, count()); ++t)
            longest = std::max(longest, before(first_task(t + 1, threads)) - before(first_task(t, threads)));
        return longest;
    }

private:
    bool take_turns() const { return chunks % sums != 0; }
    std::int64_t first_task(std::int64_t thread, int threads) const {
        const std::int64_t stretches = std::min<std::int64_t>(threads, count());
        return count() * thread / stretches;
    }
    // Chunks of all tasks before this one. With runs of one length the order does not matter.
    std::int64_t before(std::int64_t task) const { return task / sums * chunks + begin(task % sums); }
};

}  // namespace fastconv::cpu

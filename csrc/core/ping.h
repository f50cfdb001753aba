// How far apart are two cores? The time for a cache line to go from one to the other and back.
//
// On a virtual machine the cores may lie in one L3 cache or in two, and may be moved at any moment:
// 53 to 65 ns within one L3 and 334 ns across two were seen within minutes on one machine (Zen 4),
// and whole networks ran a third faster or slower with it. A benchmark pings around each sample and
// compares only samples of one state.
#pragma once

namespace fastconv {

// Median over chunks of `rounds` round trips in all, in nanoseconds, between the first and the last
// processor that this process may use, on two threads of its own (workers of a pool, ours or
// OpenMP's, would go on spinning in the sample that follows). 0 where there is only one processor
// or threads cannot be pinned.
double ping_nanoseconds(int rounds);

}  // namespace fastconv

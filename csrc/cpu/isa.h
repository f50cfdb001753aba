// The instruction sets this build has kernels for, best first, and which of them a call uses.
//
// A call uses, in this order: the calling thread's choice (with fc.isa(...)), the process's choice
// (fc.set_isa), FASTCONV_ISA, the first of the list that this processor supports. An unknown or
// unsupported name is an error, never a fallback: std::invalid_argument from wherever it is used.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace fastconv::cpu {

struct Isa {
    const char* name;
    bool (*supported)();
    const Kernels<float>& f32;
    const Kernels<double>& f64;

    template <class T>
    const Kernels<T>& kernels() const;
};

template <>
inline const Kernels<float>& Isa::kernels<float>() const { return f32; }
template <>
inline const Kernels<double>& Isa::kernels<double>() const { return f64; }

const std::vector<Isa>& isas();
const Isa& find_isa(const std::string& name);  // built and supported here, else invalid_argument

/// Whether the lines that products fetch ahead (kernels_gemm.h) go into L1 too, not only into L2, and outputs
/// that follow each other are owned ahead. On AMD's Zen 4 a fetch into L2 alone is slower than none where lines
/// come from memory: 38 MB of panels, each multiplied by 18 rows, two cores, took 2.0 ms with none, 2.8 ms into
/// L2, 2.0 ms into both; from L3 0.39, 0.41, 0.39 ms. Elsewhere fetching was measured into L2.
bool fetches_near();

/// What all but products (packing, transforms, memory) counts for in cost models, whose unit is a multiply-add of
/// the register tile at full rate. They were fitted where a core does 32 float32 a cycle, Xeons with AVX-512: 1.
/// Where it does 16 the rest goes on about as fast: packing the 9 taps and making the 36 points of a weight takes
/// 15 cycles there and on a Zen 4, whose AVX-512 comes in halves, 18 with AVX2.
double other_work(const Isa& isa);

const Isa& current_isa();
void set_process_isa(const Isa* isa);  // nullptr: back to FASTCONV_ISA or the best
void set_thread_isa(const Isa* isa);  // nullptr: no choice of its own
const Isa* thread_isa();

}  // namespace fastconv::cpu

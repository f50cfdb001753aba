// CUDA's runtime header as g++ sees it in the emulation: CUDA C++'s words, the intrinsics and the
// part of the runtime API that fastconv uses.
#pragma once

#include <math.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __host__
#define __device__
#define __global__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ inline __attribute__((always_inline))

#include "emulation/api.h"
#include "emulation/device.h"

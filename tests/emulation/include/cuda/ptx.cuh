// The functions of csrc/cuda/ptx.cuh for the emulation: contracts and layouts are in that file.
// What lanes do together is in tests/emulation/instructions.cpp.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "emulation/float16.h"

namespace emulation {

struct LoadMatrix {
    const void* row;
    std::uint32_t* result;
};
struct MultiplyMatrix {
    float* d;
    const std::uint32_t* a;
    std::uint32_t b[2];
};
extern const Collective kLoadMatrix, kLoadMatrixTransposed;
extern const Collective kMultiplyBFloat16, kMultiplyHalf, kMultiplyTf32;

}  // namespace emulation

namespace fastconv::cuda::ptx {

#define FASTCONV_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline unsigned char* shared_memory() { return emulation::block_shared_memory(); }

inline std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(static_cast<const unsigned char*>(pointer) - shared_memory());
}

inline void store_16(void* global, const std::uint32_t (&words)[4]) {
    struct alignas(16) Words {
        std::uint32_t word[4];
    };
    *static_cast<Words*>(global) = {{words[0], words[1], words[2], words[3]}};
}

inline void load_16_once(std::uint32_t (&words)[4], const void* global) {
    struct alignas(16) Words {
        std::uint32_t word[4];
    };
    const Words loaded = *static_cast<const Words*>(global);
    for (int i = 0; i < 4; ++i) words[i] = loaded.word[i];
}

inline float without_subnormals(float x) {
    return std::fabs(x) < 1.17549435e-38f ? std::copysign(0.0f, x) : x;
}
inline float exp2_approx(float x) { return without_subnormals(std::exp2(without_subnormals(x))); }
inline float reciprocal_approx(float x) {
    return without_subnormals(1.0f / without_subnormals(x));
}
inline float square_root_approx(float x) { return std::sqrt(without_subnormals(x)); }

inline void cp_async_16(void* shared, const void* global, bool valid, FASTCONV_SITE) {
    emulation::copy_async(shared, global, 16, valid, file, line);
}
inline void cp_async_4(void* shared, const void* global, bool valid, FASTCONV_SITE) {
    emulation::copy_async(shared, global, 4, valid, file, line);
}
inline void cp_async_commit() { emulation::commit_copies(); }
template <int kPending>
inline void cp_async_wait() {
    emulation::wait_for_copies(kPending);
}

inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row, FASTCONV_SITE) {
    emulation::LoadMatrix operands{row, r};
    emulation::meet(emulation::kLoadMatrix, &operands, 0xffffffffu, file, line);
}
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row, FASTCONV_SITE) {
    emulation::LoadMatrix operands{row, r};
    emulation::meet(emulation::kLoadMatrixTransposed, &operands, 0xffffffffu, file, line);
}

inline void mma_16x8x16_bf16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                             std::uint32_t b1, FASTCONV_SITE) {
    emulation::MultiplyMatrix operands{d, a, {b0, b1}};
    emulation::meet(emulation::kMultiplyBFloat16, &operands, 0xffffffffu, file, line);
}
inline void mma_16x8x16_f16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                            std::uint32_t b1, FASTCONV_SITE) {
    emulation::MultiplyMatrix operands{d, a, {b0, b1}};
    emulation::meet(emulation::kMultiplyHalf, &operands, 0xffffffffu, file, line);
}
inline void mma_16x8x8_tf32(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                            std::uint32_t b1, FASTCONV_SITE) {
    emulation::MultiplyMatrix operands{d, a, {b0, b1}};
    emulation::meet(emulation::kMultiplyTf32, &operands, 0xffffffffu, file, line);
}

inline float max_nan(float a, float b) {
    if (a != a || b != b) return emulation::float_of(0x7fffffffu);
    if (a == b)
        return emulation::float_of(emulation::bits_of(a) & emulation::bits_of(b));  // +0 > -0
    return a > b ? a : b;
}

inline std::uint32_t max_nan_f16x2(std::uint32_t a, std::uint32_t b) {
    std::uint32_t d = 0;
    for (int i = 0; i < 32; i += 16) {
        const float u = emulation::half_to_float(static_cast<std::uint16_t>(a >> i));
        const float v = emulation::half_to_float(static_cast<std::uint16_t>(b >> i));
        d |= std::uint32_t{emulation::float_to_half(max_nan(u, v))} << i;
    }
    return d;
}

inline std::uint32_t max_nan_bf16x2(std::uint32_t a, std::uint32_t b) {
    std::uint32_t d = 0;
    for (int i = 0; i < 32; i += 16) {
        const float u = emulation::bfloat16_to_float(static_cast<std::uint16_t>(a >> i));
        const float v = emulation::bfloat16_to_float(static_cast<std::uint16_t>(b >> i));
        d |= std::uint32_t{emulation::float_to_bfloat16(max_nan(u, v))} << i;
    }
    return d;
}

#undef FASTCONV_SITE

}  // namespace fastconv::cuda::ptx

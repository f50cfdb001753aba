// The floating-point mode of a thread, set for the time of a scope and then restored.
//
// Kernels must not depend on what the host program left in MXCSR: rounding is set to nearest, all
// exceptions are masked, and denormals are either computed (kIeee) or flushed to zero and read as
// zero (kFlushDenormals; only for float32 multiply-accumulate kernels, where a denormal operand
// costs some 100 cycles). Away from x86 only the rounding is set and denormals are always computed.
// Follows the Intel 64 manual, volume 1, section 10.2.3 (MXCSR).
#pragma once

#if !defined(__x86_64__)
#include <cfenv>
#endif

namespace fastconv {

enum class FloatMode { kIeee, kFlushDenormals };

class FloatModeScope {
public:
#if defined(__x86_64__)
    explicit FloatModeScope(FloatMode mode) : saved_(__builtin_ia32_stmxcsr()) {
        constexpr unsigned kMaskAll = 0x1f80, kDenormalsAreZero = 0x0040, kFlushToZero = 0x8000;
        const bool flush = mode == FloatMode::kFlushDenormals;
        __builtin_ia32_ldmxcsr(kMaskAll | (flush ? kDenormalsAreZero | kFlushToZero : 0u));
    }
    ~FloatModeScope() { __builtin_ia32_ldmxcsr(saved_); }

private:
    unsigned saved_;
#else
    explicit FloatModeScope(FloatMode) : saved_(std::fegetround()) { std::fesetround(FE_TONEAREST); }
    ~FloatModeScope() { std::fesetround(saved_); }

private:
    int saved_;
#endif
    FloatModeScope(const FloatModeScope&) = delete;
    FloatModeScope& operator=(const FloatModeScope&) = delete;
};

}  // namespace fastconv

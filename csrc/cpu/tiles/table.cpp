// The table of one instruction set: the addresses of what its other tile files export.
#include "cpu/kernels.h"

namespace fastconv::cpu::FC_ISA {

#define FC_FAMILY(Type, member)                     \
    extern const Type##Kernels<float> member##_f32; \
    extern const Type##Kernels<double> member##_f64;
#include "cpu/families.def"
#undef FC_FAMILY

extern const Kernels<float> kernels_f32 = {
#define FC_FAMILY(Type, member) &member##_f32,
#include "cpu/families.def"
#undef FC_FAMILY
};

extern const Kernels<double> kernels_f64 = {
#define FC_FAMILY(Type, member) &member##_f64,
#include "cpu/families.def"
#undef FC_FAMILY
};

}  // namespace fastconv::cpu::FC_ISA

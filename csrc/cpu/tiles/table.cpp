// The table of one instruction set: the addresses of what its other tile files export, or those of its
// base's (CMakeLists.txt).
#include "cpu/kernels.h"

#define FC_DECLARE(Type, member)                    \
    extern const Type##Kernels<float> member##_f32; \
    extern const Type##Kernels<double> member##_f64;

namespace fastconv::cpu::FC_BASE_ISA {
#define FC_FAMILY(Type, member) FC_DECLARE(Type, member)
#define FC_OWN_FAMILY(Type, member)
#include "cpu/families.def"
#undef FC_OWN_FAMILY
#undef FC_FAMILY
}  // namespace fastconv::cpu::FC_BASE_ISA

namespace fastconv::cpu::FC_ISA {

#define FC_FAMILY(Type, member)
#define FC_OWN_FAMILY(Type, member) FC_DECLARE(Type, member)
#include "cpu/families.def"
#undef FC_OWN_FAMILY
#undef FC_FAMILY

#define FC_OWN_FAMILY(Type, member) FC_ADDRESS(FC_ISA, member)
#define FC_FAMILY(Type, member) FC_ADDRESS(FC_BASE_ISA, member)

extern const Kernels<float> kernels_f32 = {
#define FC_ADDRESS(isa, member) &isa::member##_f32,
#include "cpu/families.def"
#undef FC_ADDRESS
};

extern const Kernels<double> kernels_f64 = {
#define FC_ADDRESS(isa, member) &isa::member##_f64,
#include "cpu/families.def"
#undef FC_ADDRESS
};

}  // namespace fastconv::cpu::FC_ISA

// Kernels<T>: everything one instruction set offers for dtype T, a pointer a family.
//
// The families are the lines of families.def. Here they are only declared: a loop nest that uses
// kernels.pool includes kernels_pool.h, which documents that family's contract.
#pragma once

namespace fastconv::cpu {

#define FC_FAMILY(Type, member) \
    template <class T>          \
    struct Type##Kernels;
#define FC_OWN_FAMILY FC_FAMILY
#include "cpu/families.def"
#undef FC_FAMILY

template <class T>
struct Kernels {
#define FC_FAMILY(Type, member) const Type##Kernels<T>* member;
#include "cpu/families.def"
#undef FC_FAMILY
#undef FC_OWN_FAMILY
};

}  // namespace fastconv::cpu

// The directions of the fully connected layer, one file each; linear.cpp plans and chooses.
#pragma once

#include "ops.h"

namespace fastconv::cpu {

void block_linear_forward(LinearPlan& plan);
void block_linear_grad_input(LinearPlan& plan);

template <class T>
void run_linear_forward(const LinearPlan& plan, const LinearPointers& pointers);
template <class T>
void run_linear_grad_input(const LinearPlan& plan, const LinearPointers& pointers);

/// Blocks of the first size and the last, evenly: ceil(count / ceil(count / most)).
inline std::int64_t even_block(std::int64_t count, std::int64_t most) {
    const std::int64_t blocks = count > most ? (count + most - 1) / most : 1;
    return count > 0 ? (count + blocks - 1) / blocks : 1;
}

}  // namespace fastconv::cpu

// The ordered list of convolution algorithms. Each algorithm is one Candidate in its own file; `auto`
// takes the first that accepts, a forced name only asks that one.
#pragma once

#include "ops.h"

namespace fastconv::cpu {

struct Candidate {
    Algorithm algorithm;
    /// Plans as much as `decline` needs and returns nullptr, or says why it cannot.
    const char* (*plan)(ConvPlan& plan);
    void (*run)(const ConvPlan& plan, const ConvPointers& pointers, void* workspace);
    /// Why `auto` passes a possible plan by, or nullptr if it takes it.
    const char* (*decline)(const ConvPlan& plan) = nullptr;
    /// Turns a complete plan into one for weights packed ahead, where that is more than panels.
    void (*prepack)(ConvPlan& plan) = nullptr;
    /// What `plan` left out because it takes longer than to decline; returns as `plan` does.
    const char* (*complete)(ConvPlan& plan) = nullptr;
};

/// The packed format 0: panels as the register tiles read them (cpu/correlation_pack.cpp).
void pack_panels(const ConvPlan& plan, const void* weight, void* packed);

/// The packed formats of Winograd, U.
void pack_transformed(const ConvPlan& plan, const void* weight, void* packed);

extern const Candidate conv2d_depthwise;  // all directions
extern const Candidate conv2d_direct;
extern const Candidate conv2d_pointwise;
extern const Candidate conv2d_winograd2;
extern const Candidate conv2d_winograd4;
extern const Candidate conv2d_winograd6;
extern const Candidate conv2d_im2col;
extern const Candidate conv2d_naive;
extern const Candidate conv2d_grad_weight_direct;
extern const Candidate conv2d_grad_weight_pointwise;
extern const Candidate conv2d_grad_weight_winograd2;
extern const Candidate conv2d_grad_weight_winograd4;
extern const Candidate conv2d_grad_weight_winograd6;
extern const Candidate conv2d_grad_weight_im2col;

}  // namespace fastconv::cpu

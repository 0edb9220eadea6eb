// How threads share the gradient of weights: each has weights of its own, and sums them over all pairs in plan
// order, so that the result does not depend on how many there are.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace bifusion {

// Rows of one offset's weights (cin, cout).
struct Share {
    int64_t offset, first_row, rows;
};

// Of each thread, with about as many multiply-adds for all: offsets with pairs, whole or, where threads would be left
// with little, in pieces of a multiple of `step` rows.
std::vector<std::vector<Share>> share_out(const Plan& plan, int64_t cin, int64_t step, int threads);

}  // namespace bifusion

// Which instruction sets this processor has, and the kernels of each.
#pragma once
#include <vector>

#include "kernels.h"

namespace bifusion {

struct InstructionSet {
    const char* name;
    const Kernels<float>* single_precision;
    const Kernels<double>* double_precision;
    bfloat16::Convolve convolve_bfloat16 = nullptr;  // null: what is asked for in bfloat16 is computed in float32
    bool needs_tiles = false;
};

// Fastest first.
std::vector<InstructionSet> supported_sets();

// Asks the system, the first time, to let this process use AMX's tiles.
bool may_use_tiles();

}  // namespace bifusion

// Random operators: NPU generators drive CPU kernels.
#pragma once

#include "plan.h"

namespace hostcann::aten {

// Calls the CPU kernel of a random operator. The numbers follow from the seed and the offset of the NPU generator, and the
// offset advances, so that manual_seed, get_state and set_state of the NPU generator work as on the device. The numbers
// themselves are those of PyTorch's CPU generator, not the NPU's Philox stream.
void call_with_random_numbers(const OperatorPlan& plan, c10::Device device, torch::jit::Stack* stack);

}  // namespace hostcann::aten

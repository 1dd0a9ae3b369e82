// Null mode: results with the right shapes and no arithmetic.
#pragma once

#include "plan.h"

namespace hostcann::aten {

// Runs the operator on meta tensors and leaves NPU tensors of the resulting shapes on the stack (integers zeroed).
// False if it cannot: then nothing has changed and the operator must be computed.
bool run_on_shapes(const OperatorPlan& plan, torch::jit::Stack* stack);

}  // namespace hostcann::aten

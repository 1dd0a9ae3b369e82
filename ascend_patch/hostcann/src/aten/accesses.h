// What an operator waits for, and what it touches (for the check mode).
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "hostcann/runtime.h"

namespace hostcann::aten {

// Appends the memory of `tensor`: its contiguous runs if they are few, else the span from first to last element.
void append_accesses(const at::Tensor& tensor, bool write, std::vector<Access>* accesses);

// Enters the accesses as one operation of the current stream; throws if they are not ordered after earlier ones.
void check_order(const char* name, c10::DeviceIndex device, const std::vector<Access>& accesses);

// To be called before working on the calling thread: waits for what is pending on the current stream (a collective, or
// anything in concurrent mode) and throws if it failed.
void settle_current_stream(c10::DeviceIndex device);

}  // namespace hostcann::aten

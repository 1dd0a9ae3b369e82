// copy_ and _to_copy of NPU tensors.
#pragma once

#include <ATen/core/Tensor.h>

namespace hostcann::aten {

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking);

at::Tensor to_copy(const at::Tensor& self, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
                   std::optional<at::Device> device, std::optional<bool> pin_memory, bool non_blocking,
                   std::optional<at::MemoryFormat> memory_format);

}  // namespace hostcann::aten

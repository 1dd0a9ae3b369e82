// Lets CPU kernels allocate their results in NPU memory, so that a result needs no copy.
#pragma once

#include <c10/core/Allocator.h>

namespace hostcann::aten {

// Puts a CPU allocator in front of PyTorch's own; it behaves like the latter except inside a Redirect.
void install_allocator();

// The installed allocator.
c10::Allocator* redirecting_allocator();

// While alive, CPU allocations of this thread come from torch-npu's caching allocator (current device and stream), so
// that torch.npu.memory_allocated and out-of-memory errors count them.
class Redirect {
 public:
  Redirect();
  ~Redirect();
  Redirect(const Redirect&) = delete;
  Redirect& operator=(const Redirect&) = delete;

 private:
  bool before_;
};

// Whether `data` was allocated inside a Redirect.
bool is_redirected(const c10::DataPtr& data);

}  // namespace hostcann::aten

#include "allocator.h"

#include <c10/core/CPUAllocator.h>

#include "hostcann/runtime.h"

#include "torch_npu_abi.h"

namespace hostcann::aten {
namespace {

thread_local bool redirecting = false;

// Kernels make many tiny temporaries (numbers of another dtype), which the caching allocator is slow for; a result this
// small is copied by adopt instead.
constexpr size_t kSmallest = 64;
c10::DeleterFnPtr base_raw_deleter = nullptr;

void delete_raw(void* pointer) {
  static const c10::DeleterFnPtr npu_raw_deleter = c10::GetAllocator(kNpu)->raw_deleter();
  const bool on_device = pointer != nullptr && hostcann::is_device_memory(pointer, 1);
  (on_device ? npu_raw_deleter : base_raw_deleter)(pointer);
}

class RedirectingAllocator final : public c10::Allocator {
 public:
  explicit RedirectingAllocator(c10::Allocator* base) : base_(base) { base_raw_deleter = base->raw_deleter(); }

  c10::DataPtr allocate(size_t bytes) override {
    if (!redirecting || bytes < kSmallest) return base_->allocate(bytes);
    static c10::Allocator* const npu = c10::GetAllocator(kNpu);
    c10::DataPtr data = npu->allocate(bytes);
    data.unsafe_set_device(c10::Device(c10::DeviceType::CPU));
    return data;
  }

  // raw_allocate (oneDNN's scratch memory) goes through allocate(), so a raw pointer may come from either.
  c10::DeleterFnPtr raw_deleter() const override { return &delete_raw; }

  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    base_->copy_data(target, source, bytes);
  }

 private:
  c10::Allocator* base_;
};

RedirectingAllocator* instance = nullptr;

}  // namespace

void install_allocator() {
  if (instance != nullptr) return;
  instance = new RedirectingAllocator(c10::GetCPUAllocator());
  c10::SetCPUAllocator(instance, /*priority=*/100);
}

c10::Allocator* redirecting_allocator() { return instance; }

Redirect::Redirect() : before_(redirecting) { redirecting = true; }
Redirect::~Redirect() { redirecting = before_; }

bool is_redirected(const c10::DataPtr& data) {
  // The deleter tells: a caching allocator has one deleter for all of its blocks.
  static const c10::DeleterFnPtr npu_deleter = c10::GetAllocator(kNpu)->raw_deleter();
  return data.get_deleter() == npu_deleter && npu_deleter != nullptr;
}

}  // namespace hostcann::aten

#include "allocator.h"

#include <c10/core/CPUAllocator.h>

#include "torch_npu_abi.h"

namespace hostcann::aten {
namespace {

thread_local bool redirecting = false;

class RedirectingAllocator final : public c10::Allocator {
 public:
  explicit RedirectingAllocator(c10::Allocator* base) : base_(base) {}

  c10::DataPtr allocate(size_t bytes) override {
    if (!redirecting) return base_->allocate(bytes);
    static c10::Allocator* const npu = c10::GetAllocator(kNpu);
    c10::DataPtr data = npu->allocate(bytes);
    data.unsafe_set_device(c10::Device(c10::DeviceType::CPU));
    return data;
  }

  // Only right for memory from raw_allocate, which must therefore not be redirected; no CPU kernel uses it.
  c10::DeleterFnPtr raw_deleter() const override { return base_->raw_deleter(); }

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

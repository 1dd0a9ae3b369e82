#include "random.h"

#include <ATen/CPUGeneratorImpl.h>

#include <mutex>

#include "torch_npu_abi.h"

namespace hostcann::aten {
namespace {

constexpr uint64_t kOffsetStep = 4;  // Philox yields four numbers per step; offsets must be multiples of four

// SplitMix64: neighbouring (seed, offset) pairs give unrelated CPU seeds.
uint64_t mix(uint64_t seed, uint64_t offset) {
  uint64_t value = seed + 0x9E3779B97F4A7C15ULL * (offset / kOffsetStep + 1);
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31);
}

// The CPU seed for the next operator of an NPU generator.
uint64_t draw_seed(const at::Generator& generator) {
  c10::GeneratorImpl* const impl = generator.unsafeGetGeneratorImpl();
  const std::lock_guard<std::mutex> lock(impl->mutex_);
  const uint64_t offset = impl->get_offset();
  impl->set_offset(offset + kOffsetStep);
  return mix(impl->current_seed(), offset);
}

// Some random CPU kernels (dropout) take no generator and use the default one: seed it for the call, then restore it, so
// that the CPU's own random numbers are not disturbed.
class SeededDefaultGenerator {
 public:
  explicit SeededDefaultGenerator(uint64_t seed) : impl_(at::detail::getDefaultCPUGenerator().get<at::CPUGeneratorImpl>()) {
    {
      const std::lock_guard<std::mutex> lock(impl_->mutex_);
      saved_ = impl_->get_state();
      impl_->set_current_seed(seed);
    }
  }
  ~SeededDefaultGenerator() {
    const std::lock_guard<std::mutex> lock(impl_->mutex_);
    impl_->set_state(*saved_);
  }

 private:
  at::CPUGeneratorImpl* impl_;
  c10::intrusive_ptr<c10::TensorImpl> saved_;
};

}  // namespace

void call_with_random_numbers(const OperatorPlan& plan, c10::Device device, torch::jit::Stack* stack) {
  constexpr c10::DispatchKeySet kCpu(c10::DispatchKey::CPU);
  const size_t first = stack->size() - plan.arguments;
  for (const ArgumentPlan& argument : plan.interesting) {
    if (argument.kind != ArgumentKind::kGenerator) continue;
    c10::IValue& value = (*stack)[first + argument.index];
    if (value.isGenerator() && value.toGenerator().device().type() != kNpu) break;  // refused by the kernel's own check
    const at::Generator generator =
        value.isGenerator() ? value.toGenerator() : default_generator(device);
    thread_local at::Generator cpu_generator = at::detail::createCPUGenerator();
    const uint64_t seed = draw_seed(generator);
    {
      const std::lock_guard<std::mutex> lock(cpu_generator.mutex());
      at::check_generator<at::CPUGeneratorImpl>(cpu_generator)->set_current_seed(seed);
    }
    value = cpu_generator;
    plan.handle.redispatchBoxed(kCpu, stack);
    return;
  }
  static std::mutex default_generator_mutex;
  const std::lock_guard<std::mutex> lock(default_generator_mutex);
  const SeededDefaultGenerator seeded(draw_seed(default_generator(device)));
  plan.handle.redispatchBoxed(kCpu, stack);
}

}  // namespace hostcann::aten

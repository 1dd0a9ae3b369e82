#include "fallback.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

#include "accesses.h"
#include "alias.h"
#include "allocator.h"
#include "copy.h"
#include "hostcann/fractal_nz.h"
#include "hostcann/matmul.h"
#include "hostcann/runtime.h"
#include "random.h"
#include "shapes.h"

namespace hostcann::aten {
namespace {

using torch::jit::Stack;

// The device torch-npu regards as current. It switches lazily, so that the runtime's device may be an earlier one.
c10::Device logical_device() {
  static const c10::impl::VirtualGuardImpl guard(kNpu);
  return guard.getDevice();
}

struct Pair {
  at::Tensor npu;
  at::Tensor cpu;
};

// The state of one call: which NPU tensors went in, and as which CPU tensors.
class Call {
 public:
  explicit Call(const OperatorPlan& plan) : plan_(plan) {}

  bool has_device() const { return has_device_; }
  c10::Device device() const { return device_; }

  at::Tensor to_cpu(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (tensor.device().type() != kNpu) {
      check_cpu_argument(tensor);
      return tensor;
    }
    use_device(tensor.device());
    check_dtype(tensor);
    for (const Pair& pair : pairs_) {
      if (pair.npu.is_same(tensor)) return pair.cpu;
    }
    pairs_.push_back({tensor, cpu_alias(tensor)});
    return pairs_.back().cpu;
  }

  void use_device(c10::Device device) {
    if (device.index() < 0) device = logical_device();
    TORCH_CHECK(!has_device_ || device == device_, "Expected all tensors to be on the same device, but found at least ",
                "two devices, ", device_, " and ", device, "! (aten::", plan_.name, ")");
    device_ = device;
    has_device_ = true;
  }

  // A CPU tensor next to NPU tensors is only allowed as a number (0-dim), as on every device of PyTorch.
  void check_mix() const {
    TORCH_CHECK(!has_device_ || !has_cpu_tensor_ || pairs_.empty(),
                "Expected all tensors to be on the same device, but found at least two devices, ", device_,
                " and cpu! (aten::", plan_.name, ")");
  }

  // The NPU tensor for a result of the CPU kernel.
  at::Tensor to_npu(at::Tensor result) {
    if (!result.defined()) return result;
    const c10::StorageImpl* const storage = result.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
    for (const Pair& pair : pairs_) {
      if (pair.cpu.is_same(result)) return pair.npu;
      if (pair.cpu.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl() == storage) {
        return view_of(pair.npu, result);
      }
    }
    return adopt(std::move(result), device_);
  }

  // An out argument that the CPU kernel resized got new sizes, and new memory if it had to grow.
  void finish_written() {
    for (const Pair& pair : pairs_) {
      if (C10_LIKELY(pair.npu.sizes() == pair.cpu.sizes())) continue;
      pair.npu.resize_(pair.cpu.sizes());
      if (pair.cpu.data_ptr() != pair.npu.data_ptr() && pair.cpu.numel() > 0) cpu_alias(pair.npu).copy_(pair.cpu);
    }
  }

  const c10::SmallVector<Pair, 6>& pairs() const { return pairs_; }

 private:
  void check_cpu_argument(const at::Tensor& tensor) {
    if (tensor.dim() == 0 || (plan_.cpu_indices && !c10::isFloatingType(tensor.scalar_type()))) return;
    has_cpu_tensor_ = true;
  }

  void check_dtype(const at::Tensor& tensor) const {
    const c10::ScalarType dtype = tensor.scalar_type();
    TORCH_CHECK(!plan_.floats_only || dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16,
                "hostcann: aten::", plan_.name, " is not implemented for ", dtype,
                " on the NPU, dtype support list [DT_FLOAT, DT_FLOAT16, DT_BFLOAT16] (error 161002)");
    TORCH_CHECK(dtype != at::kBFloat16 || soc().bfloat16, "hostcann: ", soc().name,
                " does not compute in bfloat16 (aten::", plan_.name, ", error 161002)");
  }

  const OperatorPlan& plan_;
  c10::SmallVector<Pair, 6> pairs_;
  c10::Device device_{kNpu, 0};
  bool has_device_ = false;
  bool has_cpu_tensor_ = false;
};

void convert_argument(const ArgumentPlan& argument, c10::IValue& value, Call& call) {
  switch (argument.kind) {
    case ArgumentKind::kTensor:
      if (value.isTensor()) value = call.to_cpu(value.toTensor());
      break;
    case ArgumentKind::kTensorList:
      if (value.isTensorList()) {
        c10::List<at::Tensor> converted;
        const auto list = value.toTensorVector();
        converted.reserve(list.size());
        for (const at::Tensor& tensor : list) converted.push_back(call.to_cpu(tensor));
        value = std::move(converted);
      }
      break;
    case ArgumentKind::kOptionalTensorList:
      if (!value.isNone()) {
        c10::List<std::optional<at::Tensor>> converted;
        for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
          converted.push_back(tensor ? std::optional<at::Tensor>(call.to_cpu(*tensor)) : std::nullopt);
        }
        value = std::move(converted);
      }
      break;
    case ArgumentKind::kDevice:
      if (value.isDevice() && value.toDevice().type() == kNpu) {
        call.use_device(value.toDevice());
        value = c10::Device(c10::DeviceType::CPU);
      }
      break;
    case ArgumentKind::kGenerator:
      break;  // done after the device is known
  }
}

void convert_result(const ReturnPlan& result, c10::IValue& value, Call& call) {
  if (result.kind == ReturnPlan::kTensor) {
    if (value.isTensor()) value = call.to_npu(std::move(value).toTensor());
  } else if (result.kind == ReturnPlan::kTensorList && value.isTensorList()) {
    c10::List<at::Tensor> converted;
    auto list = std::move(value).toTensorVector();
    for (at::Tensor& tensor : list) converted.push_back(call.to_npu(std::move(tensor)));
    value = std::move(converted);
  }
}

// torch-npu initialises the device with the first tensor it makes; an operator without tensor arguments may come first.
void initialise_device(c10::Device device) {
  // Kept for ever: a tensor destroyed with the static objects would outlive torch-npu's allocator.
  static const at::Tensor* const first = new at::Tensor(at::empty({0}, at::TensorOptions().device(device)));
  static_cast<void>(first);
}

// Computes a product in half or bfloat16 faster than the library of the CPU does; false if it is another product.
bool multiply_linear(Product product, Stack& stack) {
  const size_t arguments = product == Product::kMatmul ? 2 : product == Product::kLinear ? 3 : 5;
  const size_t first = stack.size() - arguments;
  at::Tensor x, weight, bias;
  if (product == Product::kAddmm) {
    const bool plain = stack[first + 3].isInt() && stack[first + 3].toInt() == 1 && stack[first + 4].isInt() &&
                       stack[first + 4].toInt() == 1;
    if (!plain) return false;
    bias = stack[first].toTensor();
    x = stack[first + 1].toTensor();
    weight = stack[first + 2].toTensor();
  } else {
    x = stack[first].toTensor();
    weight = stack[first + 1].toTensor();
    if (product == Product::kLinear && stack[first + 2].isTensor()) bias = stack[first + 2].toTensor();
  }
  if (product != Product::kLinear) {  // these come with the weight transposed
    if (weight.dim() != 2) return false;
    weight = weight.t();
  }
  if (!suits_linear_matmul(x, weight, bias)) return false;
  at::Tensor result = linear_matmul(x, weight, bias);
  stack.resize(first);
  stack.emplace_back(std::move(result));
  return true;
}

void trace(const OperatorPlan& plan) {
  trace_count(TraceKind::kAten, plan.name.c_str());
  if (plan.synchronises) trace_count(TraceKind::kSync, plan.name.c_str());
}

// Check mode: what the operator reads and writes of its arguments.
void check_arguments(const OperatorPlan& plan, const Stack& stack, const Call& call) {
  std::vector<Access> accesses;
  const size_t first = stack.size() - plan.arguments;
  for (const Pair& pair : call.pairs()) append_accesses(pair.npu, false, &accesses);
  for (const ArgumentPlan& argument : plan.interesting) {
    if (!argument.written) continue;
    const c10::IValue& value = stack[first + argument.index];
    if (value.isTensor()) append_accesses(value.toTensor(), true, &accesses);
    if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) append_accesses(tensor, true, &accesses);
    }
  }
  check_order(plan.name.c_str(), call.device().index(), accesses);
}

// Check mode: new results are written, too.
void check_results(const OperatorPlan& plan, const Stack& stack, const Call& call) {
  std::vector<Access> accesses;
  const size_t first = stack.size() - plan.returns;
  for (uint16_t i = 0; i < plan.returns; ++i) {
    if (plan.results[i].argument >= 0 || !stack[first + i].isTensor()) continue;
    const at::Tensor& result = stack[first + i].toTensor();
    const bool aliases = std::any_of(call.pairs().begin(), call.pairs().end(), [&](const Pair& pair) {
      return result.defined() && result.storage().is_alias_of(pair.npu.storage());
    });
    if (!aliases && is_npu(result)) append_accesses(result, true, &accesses);
  }
  check_order(plan.name.c_str(), call.device().index(), accesses);
}

const StorageDescription* private_format_of(const at::Tensor& tensor) {
  return is_npu(tensor) ? private_format(tensor) : nullptr;
}

// The first argument in a private format.
const StorageDescription* first_private_format(const OperatorPlan& plan, const Stack& stack) {
  const size_t first = stack.size() - plan.arguments;
  const StorageDescription* found = nullptr;
  for (const ArgumentPlan& argument : plan.interesting) {
    const c10::IValue& value = stack[first + argument.index];
    if (argument.kind == ArgumentKind::kTensor && value.isTensor()) {
      found = private_format_of(value.toTensor());
    } else if (argument.kind == ArgumentKind::kTensorList && value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) {
        if (found == nullptr) found = private_format_of(tensor);
      }
    } else if (argument.kind == ArgumentKind::kOptionalTensorList && !value.isNone()) {
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
        if (found == nullptr && tensor) found = private_format_of(*tensor);
      }
    }
    if (found != nullptr) return found;
  }
  return nullptr;
}

// Whether `tensor` is made of whole tiles that follow each other: all of the memory, or some of its matrices.
bool has_whole_tiles(const at::Tensor& tensor, const StorageDescription& description) {
  const c10::IntArrayRef sizes = tensor.sizes(), base = description.base_sizes;
  if (sizes.size() < 2 || base.size() < 2 || !tensor.is_contiguous()) return false;
  const int64_t rows = sizes[sizes.size() - 2], columns = sizes.back();
  if (rows != base[base.size() - 2] || columns != base.back()) return false;
  const bool filled = rows % kFractalRows == 0 && columns % fractal_columns(tensor.itemsize()) == 0;
  return tensor.storage_offset() == 0 || (filled && tensor.storage_offset() % (rows * columns) == 0);
}

bool is_part(const at::Tensor& tensor, const StorageDescription& description) {
  return (tensor.is_contiguous() && tensor.storage_offset() != 0) ||
         (tensor.strides() == c10::IntArrayRef(description.base_strides) &&
          tensor.sizes() != c10::IntArrayRef(description.base_sizes));
}

}  // namespace

Fallback::Fallback(const c10::OperatorHandle& handle) : plan_(handle) {
  if (plan_.floats_only || plan_.name == "clone") of_torch_npu_.emplace(handle.getComputedKernelForDispatchKey(c10::DispatchKey::PrivateUse1));
}

// A CPU kernel would take the memory for what the sizes and strides say. Products go through torch-npu's own kernel, which
// knows the operators of CANN for weights in FRACTAL_NZ; so do clones of whole tiles, which stay tiles; other copies
// convert; the rest is refused.
bool Fallback::run_on_private_formats(const c10::OperatorHandle& handle, Stack* stack) const {
  const StorageDescription* const found = first_private_format(plan_, *stack);
  if (C10_LIKELY(found == nullptr)) return false;
  if (plan_.floats_only) {
    of_torch_npu_->callBoxed(handle, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), stack);
    return true;
  }
  if (plan_.name == "clone" || plan_.name == "contiguous") {
    const size_t first = stack->size() - plan_.arguments;
    const at::Tensor given = (*stack)[first].toTensor();
    if (plan_.name == "contiguous" && given.is_contiguous()) {
      stack->resize(first);
      stack->emplace_back(given);
      return true;
    }
    if (soc().family != SocFamily::k950 && has_whole_tiles(given, *found)) {
      of_torch_npu_->callBoxed(handle, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), stack);
      TORCH_CHECK(private_format_of(stack->back().toTensor()) != nullptr,
                  "hostcann: torch-npu clones a tensor in a private format only while torch.npu.config.allow_internal_format"
                  " is set; otherwise it takes the tiles for the values of a plain tensor, which are wrong (error 161002)");
      return true;
    }
    TORCH_CHECK(!is_part(given, *found), "hostcann: a copy of a part of a tensor in FRACTAL_NZ, which torch-npu would cut out "
                "in that format; cast it to ND first: torch_npu.npu_format_cast(tensor, 2) (error 161002)");
    at::Tensor copy = to_copy(given, {}, {}, {}, {}, false,
                              (*stack)[first + 1].toOptional<at::MemoryFormat>());
    stack->resize(first);
    stack->emplace_back(std::move(copy));
    return true;
  }
  TORCH_CHECK(false, "hostcann: aten::", plan_.name, " got a tensor in private format ", found->format,
              found->format == kFractalNz ? " (FRACTAL_NZ)" : "",
              ", which only copies and products with weights in FRACTAL_NZ take here; cast it to ND first: "
              "torch_npu.npu_format_cast(tensor, 2) (error 161002)");
}

void Fallback::operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet, Stack* stack) {
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  if (!plan_.view && C10_UNLIKELY(run_on_private_formats(handle, stack))) return;
  if (C10_UNLIKELY(!compute_enabled()) && run_on_shapes(plan_, stack)) {
    if (trace_enabled()) trace(plan_);
    return;
  }
  Call call(plan_);
  const size_t first = stack->size() - plan_.arguments;
  for (const ArgumentPlan& argument : plan_.interesting) convert_argument(argument, (*stack)[first + argument.index], call);
  call.check_mix();
  if (C10_UNLIKELY(call.pairs().empty() && call.has_device())) initialise_device(call.device());

  c10::OptionalDeviceGuard device_guard;
  if (C10_UNLIKELY(device_count() > 1) && call.device() != logical_device()) device_guard.reset_device(call.device());
  if (C10_UNLIKELY(trace_enabled())) trace(plan_);
  settle_current_stream(call.device().index());
  if (C10_UNLIKELY(accesses_are_checked())) check_arguments(plan_, *stack, call);

  {
    const Redirect redirect;
    if (C10_UNLIKELY(plan_.random)) {
      call_with_random_numbers(plan_, call.device(), stack);
    } else if (plan_.product != Product::kNone && multiply_linear(plan_.product, *stack)) {
      // done
    } else {
      handle.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
    }
  }

  call.finish_written();
  const size_t first_result = stack->size() - plan_.returns;
  for (uint16_t i = 0; i < plan_.returns; ++i) convert_result(plan_.results[i], (*stack)[first_result + i], call);
  if (C10_UNLIKELY(accesses_are_checked())) check_results(plan_, *stack, call);
}

void ReadNumber::operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet, Stack* stack) {
  const at::Tensor given = stack->back().toTensor();
  if (C10_LIKELY(private_format_of(given) == nullptr)) {
    of_torch_npu_.callBoxed(handle, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), stack);
    return;
  }
  stack->back() = to_copy(given, {}, {}, c10::Device(c10::DeviceType::CPU), {}, false, {}).item();
}

void AutogradBypass::operator()(const c10::OperatorHandle& handle, c10::DispatchKeySet, Stack* stack) {
  const auto needs_gradient = [](const c10::IValue& value) {
    if (value.isTensor()) return value.toTensor().defined() && value.toTensor().requires_grad();
    if (!value.isTensorList()) return false;
    const auto tensors = value.toTensorVector();
    return std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& tensor) { return tensor.requires_grad(); });
  };
  const auto first = stack->end() - static_cast<std::ptrdiff_t>(arguments_);
  if (c10::GradMode::is_enabled() && std::any_of(first, stack->end(), needs_gradient)) {
    // Both are the same for every device, and come back to the fallback below autograd.
    const bool decomposes = handle.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd);
    handle.callBoxedForDispatchKey(
        decomposes ? c10::DispatchKey::CompositeImplicitAutograd : c10::DispatchKey::Autograd, *stack);
    return;
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  handle.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), stack);
}

}  // namespace hostcann::aten

#include "shapes.h"

#include <ATen/ops/empty_strided.h>

#include "alias.h"
#include "hostcann/runtime.h"

namespace hostcann::aten {
namespace {

struct MetaPair {
  at::Tensor npu;
  at::Tensor meta;
};

using MetaPairs = c10::SmallVector<MetaPair, 6>;

at::Tensor meta_of(const at::Tensor& tensor, MetaPairs& pairs) {
  if (!is_npu(tensor)) return tensor;
  for (const MetaPair& pair : pairs) {
    if (pair.npu.is_same(tensor)) return pair.meta;
  }
  const c10::Device kMeta(c10::DeviceType::Meta);
  c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(), c10::DataPtr(nullptr, kMeta),
                       c10::GetAllocator(c10::DeviceType::Meta), true);
  auto impl = c10::make_intrusive<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::Meta),
                                                   tensor.dtype());
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  pairs.push_back({tensor, at::Tensor::wrap_tensor_impl(std::move(impl))});
  return pairs.back().meta;
}

void to_meta(const ArgumentPlan& argument, c10::IValue& value, MetaPairs& pairs) {
  switch (argument.kind) {
    case ArgumentKind::kTensor:
      if (value.isTensor()) value = meta_of(value.toTensor(), pairs);
      break;
    case ArgumentKind::kTensorList:
      if (value.isTensorList()) {
        c10::List<at::Tensor> converted;
        for (const at::Tensor& tensor : value.toTensorVector()) converted.push_back(meta_of(tensor, pairs));
        value = std::move(converted);
      }
      break;
    case ArgumentKind::kOptionalTensorList:
      if (!value.isNone()) {
        c10::List<std::optional<at::Tensor>> converted;
        for (const auto& tensor : value.toOptionalTensorVector()) {
          converted.push_back(tensor ? std::optional<at::Tensor>(meta_of(*tensor, pairs)) : std::nullopt);
        }
        value = std::move(converted);
      }
      break;
    case ArgumentKind::kDevice:
      if (value.isDevice()) value = c10::Device(c10::DeviceType::Meta);
      break;
    case ArgumentKind::kGenerator:
      value = c10::IValue();
      break;
  }
}

at::Tensor from_meta(const at::Tensor& result, const MetaPairs& pairs, c10::Device device) {
  if (!result.defined()) return result;
  for (const MetaPair& pair : pairs) {
    if (pair.meta.is_same(result)) return pair.npu;
    if (pair.meta.storage().is_alias_of(result.storage())) return view_of(pair.npu, result);
  }
  at::Tensor made = at::empty_strided(result.sizes(), result.strides(), result.options().device(device));
  if (!made.is_floating_point() && !made.is_complex() && made.storage().nbytes() > 0) {
    std::memset(made.storage().mutable_data(), 0, made.storage().nbytes());
  }
  return made;
}

bool writes(const OperatorPlan& plan) {
  return std::any_of(plan.interesting.begin(), plan.interesting.end(), [](const auto& a) { return a.written; });
}

// In-place and out operators return what they were given; the data stays as it is.
bool skip_in_place(const OperatorPlan& plan, torch::jit::Stack* stack) {
  const size_t first = stack->size() - plan.arguments;
  std::vector<c10::IValue> returned;
  for (const ArgumentPlan& argument : plan.interesting) {
    const c10::IValue& value = (*stack)[first + argument.index];
    // An empty out argument will be resized, to a shape that only the computation knows.
    if (argument.written && value.isTensor() && value.toTensor().numel() == 0) return false;
  }
  for (const ReturnPlan& result : plan.results) {
    if (result.argument < 0) return false;
    returned.push_back((*stack)[first + result.argument]);
  }
  stack->resize(first);
  for (c10::IValue& value : returned) stack->push_back(std::move(value));
  return true;
}

}  // namespace

bool run_on_shapes(const OperatorPlan& plan, torch::jit::Stack* stack) {
  if (writes(plan)) return skip_in_place(plan, stack);
  if (!plan.has_meta || plan.synchronises) return false;
  const size_t first = stack->size() - plan.arguments;
  const std::vector<c10::IValue> saved(stack->begin() + static_cast<std::ptrdiff_t>(first), stack->end());
  MetaPairs pairs;
  for (const ArgumentPlan& argument : plan.interesting) to_meta(argument, (*stack)[first + argument.index], pairs);
  if (pairs.empty()) {  // a factory: what it makes may be needed (positions, masks), and costs little
    std::copy(saved.begin(), saved.end(), stack->begin() + static_cast<std::ptrdiff_t>(first));
    return false;
  }
  try {
    plan.handle.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::Meta), stack);
  } catch (const c10::NotImplementedError&) {
    stack->resize(first);
    stack->insert(stack->end(), saved.begin(), saved.end());
    return false;
  }
  const c10::Device device = pairs.front().npu.device();
  const size_t first_result = stack->size() - plan.returns;
  for (uint16_t i = 0; i < plan.returns; ++i) {
    c10::IValue& value = (*stack)[first_result + i];
    if (value.isTensor()) {
      value = from_meta(value.toTensor(), pairs, device);
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> converted;
      for (const at::Tensor& tensor : value.toTensorVector()) converted.push_back(from_meta(tensor, pairs, device));
      value = std::move(converted);
    }
  }
  return true;
}

}  // namespace hostcann::aten

#include "plan.h"

#include <algorithm>
#include <unordered_set>

namespace hostcann::aten {
namespace {

// Matrix products: aclnnMatmul, aclnnAddmm, aclnnBatchMatMul, aclnnBaddbmm and aclnnMv document FLOAT, FLOAT16 and
// BFLOAT16 only; aclnnConvolution the same.
const std::unordered_set<std::string>& float_only_names() {
  static const auto* const names = new std::unordered_set<std::string>{
      "mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_", "matmul", "mv", "addmv", "addmv_", "linear",
      "convolution", "_convolution", "convolution_overrideable", "_addmm_activation", "addbmm", "addbmm_"};
  return *names;
}

bool is_tensor(const c10::TypePtr& type) {
  return type->isSubtypeOf(*c10::TensorType::get()) ||
         type->isSubtypeOf(*c10::OptionalType::create(c10::TensorType::get()));
}

// Strips Optional[...] from a type.
c10::TypePtr inner(const c10::TypePtr& type) {
  const auto optional = type->cast<c10::OptionalType>();
  return optional ? optional->getElementType() : type;
}

bool argument_kind(const c10::TypePtr& declared, ArgumentKind* kind) {
  if (is_tensor(declared)) {
    *kind = ArgumentKind::kTensor;
    return true;
  }
  const c10::TypePtr type = inner(declared);
  if (const auto list = type->cast<c10::ListType>()) {
    if (list->getElementType()->kind() == c10::TypeKind::TensorType) {
      *kind = ArgumentKind::kTensorList;
      return true;
    }
    if (is_tensor(list->getElementType())) {
      *kind = ArgumentKind::kOptionalTensorList;
      return true;
    }
    return false;
  }
  if (type->kind() == c10::TypeKind::DeviceObjType) {
    *kind = ArgumentKind::kDevice;
    return true;
  }
  if (type->kind() == c10::TypeKind::GeneratorType) {
    *kind = ArgumentKind::kGenerator;
    return true;
  }
  return false;
}

bool writes(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

}  // namespace

OperatorPlan::OperatorPlan(const c10::OperatorHandle& operator_handle) : handle(operator_handle) {
  const c10::FunctionSchema& schema = handle.schema();
  const c10::OperatorName& full = schema.operator_name();
  const std::string base = full.name.substr(full.name.find("::") + 2);
  name = full.overload_name.empty() ? base : base + "." + full.overload_name;
  arguments = static_cast<uint16_t>(schema.arguments().size());
  returns = static_cast<uint16_t>(schema.returns().size());

  for (uint16_t i = 0; i < arguments; ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    ArgumentKind kind;
    if (argument_kind(argument.real_type(), &kind)) interesting.push_back({i, kind, writes(argument)});
  }
  for (const c10::Argument& result : schema.returns()) {
    ReturnPlan plan{ReturnPlan::kOther, -1};
    if (is_tensor(result.real_type())) {
      plan.kind = ReturnPlan::kTensor;
    } else if (const auto list = result.real_type()->cast<c10::ListType>()) {
      if (is_tensor(list->getElementType())) plan.kind = ReturnPlan::kTensorList;
    }
    if (writes(result)) {
      for (uint16_t i = 0; i < arguments; ++i) {
        const c10::Argument& argument = schema.arguments()[i];
        if (writes(argument) && *argument.alias_info() == *result.alias_info()) plan.argument = static_cast<int16_t>(i);
      }
    }
    results.push_back(plan);
  }

  random = handle.hasTag(at::Tag::nondeterministic_seeded);
  synchronises = handle.hasTag(at::Tag::dynamic_output_shape) || handle.hasTag(at::Tag::data_dependent_output);
  floats_only = float_only_names().count(base) > 0;
  cpu_indices = base.rfind("index", 0) == 0 || base.rfind("_index_put", 0) == 0;
  product = name == "mm" || name == "matmul" ? Product::kMatmul
            : name == "linear"                 ? Product::kLinear
            : name == "addmm"                  ? Product::kAddmm
                                               : Product::kNone;
  has_meta = handle.hasKernelForDispatchKey(c10::DispatchKey::Meta);
  view = base != "contiguous" && !schema.returns().empty() &&
         std::all_of(schema.returns().begin(), schema.returns().end(), [](const c10::Argument& result) {
           return result.alias_info() != nullptr && !result.alias_info()->isWrite();
         });
}

}  // namespace hostcann::aten

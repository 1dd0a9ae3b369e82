// Registers the fallback over torch-npu's aten kernels.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/op_registration/op_registration.h>

#include <string>
#include <unordered_set>
#include <vector>

#include "allocator.h"
#include "copy.h"
#include "fallback.h"
#include "hostcann/runtime.h"
#include "torch_npu_abi.h"

namespace hostcann::aten {
namespace {

// torch-npu's own kernels that stay: factories without arithmetic, views, resizing, storage, and what asks the runtime.
const std::unordered_set<std::string>& kept() {
  static const auto* const names = new std::unordered_set<std::string>{
      "empty.memory_format", "empty_strided", "empty_like", "new_empty_strided", "empty_with_format",
      "unsafe_empty_with_format", "empty_with_swapped_memory", "resize_", "resize_as_", "set_", "set_.source_Storage",
      "set_.source_Storage_storage_offset", "set_.source_Tensor", "is_set_to", "as_strided", "as_strided_", "view",
      "_reshape_alias", "view_as_real", "view_as_complex", "unfold", "alias", "squeeze", "squeeze.dim", "unsqueeze",
      "_lazy_clone", "is_pinned", "_pin_memory", "pin_memory", "record_stream", "to_padded_tensor",
      "flatten_dense_tensors", "_copy_from_and_resize", "copy_memory_", "get_npu_format", "get_storage_size"};
  return *names;
}

// Registrations live as long as the process: undoing them at exit would race with torch-npu's own destruction.
std::vector<c10::RegistrationHandleRAII>& registrations() {
  static auto* const handles = new std::vector<c10::RegistrationHandleRAII>;
  return *handles;
}

void replace(const c10::OperatorName& name, c10::KernelFunction kernel,
             c10::DispatchKey key = c10::DispatchKey::PrivateUse1) {
  registrations().push_back(c10::Dispatcher::singleton().registerImpl(name, key, std::move(kernel), std::nullopt,
                                                                      nullptr, "hostcann"));
}

int install() {
  install_allocator();
  c10::Dispatcher& dispatcher = c10::Dispatcher::singleton();
  int count = 0;
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) continue;
    const auto handle = dispatcher.findSchema(name);
    if (!handle || !handle->hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1)) continue;
    std::string short_name = name.name.substr(6);
    if (!name.overload_name.empty()) short_name += "." + name.overload_name;
    if (kept().count(short_name) > 0) continue;
    if (short_name == "copy_") {
      replace(name, c10::KernelFunction::makeFromUnboxedFunction(TORCH_FN(copy_)));
    } else if (short_name == "_local_scalar_dense") {
      replace(name, c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<ReadNumber>(*handle)));
    } else if (short_name == "_to_copy") {
      replace(name, c10::KernelFunction::makeFromUnboxedFunction(TORCH_FN(to_copy)));
    } else if (handle->hasKernelForDispatchKey(c10::DispatchKey::CPU) ||
               handle->hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutograd) ||
               handle->hasKernelForDispatchKey(c10::DispatchKey::CompositeExplicitAutogradNonFunctional) ||
               handle->hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd)) {
      replace(name, c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<Fallback>(*handle)));
      if (handle->hasKernelForDispatchKey(c10::DispatchKey::AutogradPrivateUse1)) {
        replace(name, c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<AutogradBypass>(*handle)),
                c10::DispatchKey::AutogradPrivateUse1);
      }
    } else {
      continue;  // one of torch-npu's own operators
    }
    ++count;
  }
  return count;
}

}  // namespace
}  // namespace hostcann::aten

// What has to be done before torch-npu is loaded.
ACL_API void hostcann_aten_prepare() { hostcann::aten::release_cuda_allocator_options(); }

// Installs the fallback; returns null, or a message that says why it could not.
ACL_API const char* hostcann_aten_install() {
  static std::string problem;
  try {
    static const int count = hostcann::aten::install();
    if (count > 0) return nullptr;
    problem = "torch-npu has registered no aten kernels";
  } catch (const std::exception& error) {
    problem = error.what();
  }
  return problem.c_str();
}

#include "accesses.h"

#include "torch_npu_abi.h"

namespace hostcann::aten {
namespace {
constexpr int64_t kMostRuns = 512;
}

void append_accesses(const at::Tensor& tensor, bool write, std::vector<Access>* accesses) {
  if (!tensor.defined() || tensor.numel() == 0) return;
  if (tensor.device().type() == kNpu && private_format(tensor) != nullptr) {
    accesses->push_back({tensor.storage().data(), tensor.storage().nbytes(), write});
    return;
  }
  // Dimensions by descending stride; the innermost ones that are dense form a run.
  c10::SmallVector<std::pair<int64_t, int64_t>, 8> dims;  // stride, size
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) > 1 && tensor.stride(i) > 0) dims.emplace_back(tensor.stride(i), tensor.size(i));
  }
  std::sort(dims.begin(), dims.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  int64_t run = 1;
  while (!dims.empty() && dims.back().first <= run) {
    run = std::max(run, dims.back().first * (dims.back().second - 1) + run);
    dims.pop_back();
  }
  int64_t runs = 1;
  int64_t span = run;
  for (const auto& [stride, size] : dims) {
    runs *= size;
    span += stride * (size - 1);
  }
  const auto* const start = static_cast<const char*>(tensor.const_data_ptr());
  const size_t item = tensor.itemsize();
  if (runs > kMostRuns) {
    accesses->push_back({start, static_cast<size_t>(span) * item, write});
    return;
  }
  for (int64_t i = 0; i < runs; ++i) {
    int64_t rest = i;
    int64_t offset = 0;
    for (auto dim = dims.rbegin(); dim != dims.rend(); ++dim) {
      offset += rest % dim->second * dim->first;
      rest /= dim->second;
    }
    accesses->push_back({start + offset * static_cast<int64_t>(item), static_cast<size_t>(run) * item, write});
  }
}

void check_order(const char* name, c10::DeviceIndex device, const std::vector<Access>& accesses) {
  if (accesses.empty()) return;
  const aclError code = launch_always(current_stream(device), name, [] {}, accesses);
  TORCH_CHECK(code == kSuccess, last_message());
}

void settle_current_stream(c10::DeviceIndex device) {
  if (C10_LIKELY(!work_is_pending() && !task_queue_is_on())) return;
  TORCH_CHECK(settle(current_stream(device)) == kSuccess, last_message());
}

}  // namespace hostcann::aten

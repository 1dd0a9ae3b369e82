#include "copy.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include <cstring>

#include "accesses.h"
#include "alias.h"
#include "hostcann/runtime.h"

namespace hostcann::aten {
namespace {

const char* direction(bool to_npu, bool from_npu) {
  return to_npu ? (from_npu ? "device_to_device" : "host_to_device") : "device_to_host";
}

bool same_layout(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.strides() == b.strides() &&
         a.is_non_overlapping_and_dense() && a.is_neg() == b.is_neg() && a.is_conj() == b.is_conj();
}

// A blocking copy waits for the current stream and then copies on the host, as torch-npu does.
void check_copy_order(const at::Tensor& self, const at::Tensor& source, c10::DeviceIndex device, bool blocking) {
  std::vector<Access> accesses;
  append_accesses(source, false, &accesses);
  append_accesses(self, true, &accesses);
  if (!blocking) {
    check_order("copy_", device, accesses);
    return;
  }
  synchronize(current_stream(device));
  TORCH_CHECK(host_access("copy_", accesses) == kSuccess, last_message());
}

// What torch-npu copies on Ascend 950 where a private format is involved: to the host, and tiles to the same tiles.
// (source: torch-npu, copy_ of 2.9.0.post9 and of 2.10 to 2.14; 2.9.1 refuses tiles to tiles, too)
void check_copy_on_950(const at::Tensor& self, const at::Tensor& source) {
  const StorageDescription *to = private_format(self), *from = is_npu(source) ? private_format(source) : nullptr;
  if (C10_LIKELY(to == nullptr && from == nullptr)) return;
  const bool same_tiles = to != nullptr && from != nullptr && self.device() == source.device() &&
                          self.scalar_type() == source.scalar_type() && to->format == from->format &&
                          to->storage_sizes == from->storage_sizes && to->base_sizes == from->base_sizes &&
                          self.sizes() == c10::IntArrayRef(to->base_sizes) && self.sizes() == source.sizes() &&
                          self.is_contiguous() && source.is_contiguous() && self.storage_offset() == 0 &&
                          source.storage_offset() == 0;
  TORCH_CHECK(same_tiles, "hostcann: copy_ on ", soc().name, " where a tensor is in a private format: torch-npu copies such "
              "a tensor to the host, and all of it into another of the same shape, type and format, nothing else "
              "(error 161002)");
}

}  // namespace

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  if (self.is_same(source) || self.numel() == 0) return self;
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const bool to_npu = is_npu(self);
  const bool from_npu = is_npu(source);
  const bool crosses = to_npu != from_npu;
  if (C10_UNLIKELY(soc().family == SocFamily::k950) && to_npu) check_copy_on_950(self, source);
  if (C10_UNLIKELY(trace_enabled())) {
    trace_count(TraceKind::kCopy, direction(to_npu, from_npu), source.nbytes());
    if (crosses && !non_blocking) trace_count(TraceKind::kSync, "copy_");
  }
  const c10::DeviceIndex device = to_npu ? self.device().index() : source.device().index();
  settle_current_stream(device);
  if (C10_UNLIKELY(accesses_are_checked())) check_copy_order(self, source, device, crosses && !non_blocking);
  if (!crosses && !compute_enabled()) return self;

  // Formats are converted on the way, as torch-npu does.
  const StorageDescription* const tiled = to_npu ? private_format(self) : nullptr;
  const StorageDescription* const tiled_source = from_npu ? private_format(source) : nullptr;
  const at::Tensor from = tiled_source ? plain_values(source, *tiled_source) : from_npu ? cpu_alias(source) : source;
  if (C10_UNLIKELY(tiled != nullptr)) {
    at::Tensor values = at::empty(self.sizes(), self.options().device(c10::DeviceType::CPU));
    set_plain_values(self, *tiled, values.copy_(from));
    return self;
  }
  at::Tensor target = to_npu ? cpu_alias(self) : self;
  if (same_layout(target, from)) {
    std::memmove(target.mutable_data_ptr(), from.const_data_ptr(), target.nbytes());
  } else {
    target.copy_(from);  // casts, broadcasts and strides
  }
  return self;
}

at::Tensor to_copy(const at::Tensor& self, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
                   std::optional<at::Device> device, std::optional<bool> pin_memory, bool non_blocking,
                   std::optional<at::MemoryFormat> memory_format) {
  TORCH_CHECK(!layout || *layout == at::kStrided, "hostcann: only strided tensors exist on the NPU");
  const at::TensorOptions options = self.options()
                                        .dtype(dtype.value_or(self.scalar_type()))
                                        .device(device.value_or(self.device()))
                                        .pinned_memory(pin_memory.value_or(false));
  const at::MemoryFormat format = memory_format.value_or(at::MemoryFormat::Preserve);
  at::Tensor result;
  if (format == at::MemoryFormat::Preserve && self.is_non_overlapping_and_dense()) {
    result = at::empty_strided(self.sizes(), self.strides(), options);
  } else {
    const at::MemoryFormat wanted = format == at::MemoryFormat::Preserve ? self.suggest_memory_format() : format;
    result = at::empty(self.sizes(), options, wanted);
  }
  result.copy_(self, non_blocking);
  return result;
}

}  // namespace hostcann::aten

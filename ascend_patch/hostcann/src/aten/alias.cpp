#include "alias.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include <cstring>

#include "allocator.h"
#include "hostcann/fractal_nz.h"

namespace hostcann::aten {
namespace {

std::vector<int64_t> checked_shape(const at::Tensor& tensor, const StorageDescription& description) {
  std::vector<int64_t> shape(description.base_sizes.begin(), description.base_sizes.end());
  TORCH_CHECK(description.format == kFractalNz && shape.size() >= 2 &&
                  description.storage_sizes == c10::IntArrayRef(fractal_nz_shape(shape, tensor.itemsize())),
              "hostcann: a tensor in format ", description.format, " with memory of shape ",
              c10::IntArrayRef(description.storage_sizes), "; hostcann has FRACTAL_NZ and no other private format");
  return shape;
}

}  // namespace

at::Tensor plain_values(const at::Tensor& tensor, const StorageDescription& description) {
  const std::vector<int64_t> shape = checked_shape(tensor, description);
  const at::Tensor whole = at::empty(shape, tensor.options().device(c10::DeviceType::CPU));
  from_fractal_nz(tensor.storage().data(), whole.mutable_data_ptr(), shape, tensor.itemsize());
  return whole.as_strided(tensor.sizes(), tensor.strides(), tensor.storage_offset());
}

void set_plain_values(const at::Tensor& tensor, const StorageDescription& description, const at::Tensor& values) {
  const std::vector<int64_t> shape = checked_shape(tensor, description);
  TORCH_CHECK(tensor.sizes() == c10::IntArrayRef(shape) && tensor.is_contiguous() && tensor.storage_offset() == 0,
              "hostcann: copy_ into a part of a tensor in FRACTAL_NZ; cast it to ND first (torch_npu.npu_format_cast)");
  to_fractal_nz(values.const_data_ptr(), tensor.storage().mutable_data(), shape, tensor.itemsize());
}

at::Tensor cpu_alias(const at::Tensor& tensor) {
  c10::TensorImpl* const source = tensor.unsafeGetTensorImpl();
  c10::StorageImpl* const storage = source->unsafe_storage().unsafeGetStorageImpl();
  auto alias_storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), storage->nbytes(),
      c10::DataPtr(storage->_mutable_data_ptr_no_checks().get(), c10::Device(c10::DeviceType::CPU)),
      redirecting_allocator(), /*resizable=*/true);
  auto alias = c10::make_intrusive<c10::TensorImpl>(c10::Storage(std::move(alias_storage)),
                                                    c10::DispatchKeySet(c10::DispatchKey::CPU), source->dtype());
  alias->set_sizes_and_strides(source->sizes(), source->strides(), source->storage_offset());
  if (C10_UNLIKELY(source->is_wrapped_number())) alias->set_wrapped_number(true);
  at::Tensor result = at::Tensor::wrap_tensor_impl(std::move(alias));
  if (C10_UNLIKELY(tensor.is_neg())) result._set_neg(true);
  if (C10_UNLIKELY(tensor.is_conj())) result._set_conj(true);
  return result;
}

at::Tensor adopt(at::Tensor result, c10::Device device) {
  c10::TensorImpl* const impl = result.unsafeGetTensorImpl();
  c10::StorageImpl* const storage = impl->unsafe_storage().unsafeGetStorageImpl();
  if (C10_LIKELY(result.use_count() == 1 && impl->unsafe_storage().use_count() == 1)) {
    const size_t bytes = storage->nbytes();
    c10::DataPtr data;
    if (bytes == 0 || is_redirected(storage->data_ptr())) {
      data = storage->set_data_ptr(c10::DataPtr(nullptr, c10::Device(c10::DeviceType::CPU)));
    } else {
      static c10::Allocator* const allocator = c10::GetAllocator(kNpu);
      data = allocator->allocate(bytes);
      std::memcpy(data.get(), storage->data(), bytes);
    }
    data.unsafe_set_device(device);
    impl->set_storage_keep_dtype(
        c10::Storage(make_npu_storage(std::move(data), bytes, impl->sizes(), impl->strides(), impl->dtype())));
    impl->_change_backend_component_keys(device);
    return result;
  }
  // The kernel kept a reference, or returned the same tensor twice.
  at::Tensor copy = at::empty_strided(result.sizes(), result.strides(), result.options().device(device));
  if (result.numel() > 0) cpu_alias(copy).copy_(result);
  return copy;
}

at::Tensor view_of(const at::Tensor& base, const at::Tensor& view) {
  auto impl = c10::make_intrusive<c10::TensorImpl>(c10::Storage(base.storage()), base.key_set(), view.dtype());
  impl->set_sizes_and_strides(view.sizes(), view.strides(), view.storage_offset());
  at::Tensor result = at::Tensor::wrap_tensor_impl(std::move(impl));
  if (view.is_neg() != result.is_neg()) result._set_neg(view.is_neg());
  if (view.is_conj() != result.is_conj()) result._set_conj(view.is_conj());
  return result;
}

}  // namespace hostcann::aten

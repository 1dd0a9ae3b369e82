// The few things of torch-npu's C++ that the fallback touches, declared by us. Everything that may differ between
// torch-npu versions is in this file and in torch_npu_abi.cpp.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>
#include <c10/util/SmallVector.h>

namespace hostcann::aten {

constexpr c10::DeviceType kNpu = c10::DeviceType::PrivateUse1;

// Front part of torch-npu's storage description, which follows the c10::StorageImpl base (2.9.0 to 2.14.0).
struct StorageDescription {
  struct Empty {};
  c10::SmallVector<int64_t, 5> base_sizes;
  c10::SmallVector<int64_t, 5> base_strides;
  c10::SmallVector<int64_t, 5> storage_sizes;
  int64_t base_offset = 0;
  Empty base_dtype;
  int origin_format = -1;
  int format = 2;
  caffe2::TypeMeta dtype;
};

struct NpuStorage : c10::StorageImpl {
  StorageDescription description;
};

// Lets torch-npu register its allocator's options next to a CUDA build of torch: from 2.10 on some have the names of
// CUDA's, and torch refuses a name twice. To be called before torch-npu is loaded; CUDA has no device here to serve.
void release_cuda_allocator_options();

// Whether torch-npu's storages are laid out as declared above; looked at once, with a tensor made by torch-npu.
bool storage_layout_is_known(c10::DeviceIndex device);

// What torch-npu says about the memory behind an NPU tensor that is in a private format; null for every other tensor.
const StorageDescription* private_format(const at::TensorBase& tensor);

// A new NPU storage (torch-npu's own class) that owns `data`, described as a tensor of these sizes in ND format.
c10::intrusive_ptr<c10::StorageImpl> make_npu_storage(c10::DataPtr data, size_t bytes, c10::IntArrayRef sizes,
                                                      c10::IntArrayRef strides, caffe2::TypeMeta dtype);

// The generator torch-npu uses for this device where none is given. (torch's own hook for it exists in all versions, but
// torch-npu 2.9 to 2.11 do not implement it.)
const at::Generator& default_generator(c10::Device device);

// Whether torch-npu launches operators from a thread of its own (TASK_QUEUE_ENABLE, which it takes for 1 if not set).
bool task_queue_is_on();

// The aclrtStream that is current on the calling thread for this device, once all that waits in torch-npu's task queue
// for it has been launched: the fallback runs in the caller's thread and must not overtake it.
void* current_stream(c10::DeviceIndex device);

}  // namespace hostcann::aten

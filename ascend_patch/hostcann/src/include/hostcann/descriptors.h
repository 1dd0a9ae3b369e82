// The descriptors of the old single-operator interface (aclop), as libascendcl makes and libacl_op_compiler reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct aclTensorDesc {
  int data_type;
  int format;          // of the tensor that is meant
  int storage_format;  // of the memory behind it
  int placement;
  std::vector<int64_t> dims;          // of the tensor
  std::vector<int64_t> storage_dims;  // of the memory
  std::string name;
};

struct aclDataBuffer {
  void* data;
  size_t bytes;
};

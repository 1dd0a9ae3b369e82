// Communicators: one rank of a group. With one rank every collective is a copy; more ranks are not implemented yet.
#pragma once

#include <cstdint>
#include <string>

#include "hostcann/runtime.h"

namespace hostcann::hccl {

enum Result : int {
  kOk = 0,
  kBadParameter = 1,
  kNullPointer = 2,
  kInternal = 4,
  kNotSupported = 5,
  kNotFound = 6,
  kRuntime = 15,
};

struct Communicator {
  uint32_t rank;
  uint32_t size;
  int device;
  std::string name;
};

// HcclRootInfo: 4108 opaque bytes that rank 0 makes and the others receive.
constexpr size_t kRootInfoBytes = 4108;

// The communicator behind a handle; null (with a recorded error) if it is not a live one.
Communicator* resolve(const char* function, void* handle);

// Bytes of one element of an HcclDataType; 0 if the type is unknown.
size_t element_bytes(int data_type);

// Records a message and returns the code.
int refuse(Result code, const char* function, const char* reason);

}  // namespace hostcann::hccl

// The registry of every allocation: who owns which address, and how much of each device is in use.
#pragma once

#include "config.h"

namespace hostcann {

enum class Origin { kMalloc, kMallocHost, kRegistered, kMapped };

// Enters an allocation; bytes is the size charged to the device.
void register_range(const void* base, size_t bytes, Location location, int device, Origin origin);

// Removes the allocation that starts at `base`; false if there is none of that origin.
bool unregister_range(const void* base, Origin origin, MemoryRange* removed);

// Charges the device's budget; false when it does not fit.
bool charge(int device, size_t bytes);
void discharge(int device, size_t bytes);
size_t used_bytes(int device);

}  // namespace hostcann

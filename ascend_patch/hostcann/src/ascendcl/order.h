// Stream order: who waits for whom. Deferred execution is in stream.cpp, the check mode in order.cpp.
#pragma once

#include <vector>

#include "config.h"

namespace hostcann {

// Vector clock: component i is how many operations of stream i have happened before. Component 0 is the host.
using Clock = std::vector<uint64_t>;

// Concurrent mode: everything runs on the threads of its stream. In the other modes only collectives do, and what only
// marks a place behind them.
bool streams_are_deferred();

// Waits until no deferred task of the device (all devices when -1) is pending.
void drain_device(int device);

// Check mode: forgets what is known about a range that was freed.
void forget_accesses(const void* address, size_t bytes);

struct StreamObject;
struct Recording;

// The following do nothing unless accesses_are_checked().
aclError check_accesses(StreamObject* stream, const char* name, const std::vector<Access>& accesses);
void order_record(StreamObject* stream, Recording* recording);
void order_wait(StreamObject* stream, const Recording* recording);
void order_host_saw(const Recording* recording);
void order_host_saw_stream(StreamObject* stream);

}  // namespace hostcann

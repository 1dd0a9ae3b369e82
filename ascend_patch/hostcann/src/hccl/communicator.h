// Communicators: one rank of a group of processes on one machine.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hostcann/runtime.h"
#include "segment.h"

namespace hostcann::hccl {

// HcclResult.
enum Result : int {
  kOk = 0,
  kBadParameter = 1,
  kNullPointer = 2,
  kMemory = 3,
  kInternal = 4,
  kNotSupported = 5,
  kNotFound = 6,
  kUnavailable = 7,
  kSystemCall = 8,
  kTimeout = 9,
  kOpenFile = 10,
  kTcpConnect = 11,
  kRuntime = 15,
  kRemote = 21,
};
constexpr int kParameterMismatch = kBadParameter;  // EI0005, between ranks

// A communicator of operators that communicate on their own must have nothing else on it ("constraints, communicators"
// of aclnnMoeDistributeDispatchV2).
enum class Use { kUndecided, kCollectives, kOperators };

struct Communicator {
  uint32_t rank = 0;
  uint32_t size = 1;
  std::string name;
  double timeout_seconds = 0;        // of one collective; 0: none
  std::shared_ptr<Segment> segment;  // null with one rank
  std::mutex order;                  // one collective at a time, in the order of the stream

  // Whether it may be used so; the first use decides.
  bool take_for(Use wanted) {
    Use found = Use::kUndecided;
    return use.compare_exchange_strong(found, wanted) || found == wanted;
  }
  std::atomic<Use> use{Use::kUndecided};

  // Lets the other ranks know that nothing will come from here any more.
  ~Communicator();
};

// HcclRootInfo: 4108 opaque bytes that one rank makes and the others receive.
constexpr size_t kRootInfoBytes = 4108;

// The communicator behind a handle; null (with a recorded error) if it is not a live one.
std::shared_ptr<Communicator> resolve(const char* function, void* handle);

// The live communicator of that name; null if there is none.
std::shared_ptr<Communicator> find(const std::string& name);

// Makes a communicator: `join` (not called with one rank) brings the ranks together within so many seconds and may
// throw TransferError. Returns a Result.
int create(const char* function, uint32_t rank, uint32_t size, const void* config, void** handle,
           const std::function<std::shared_ptr<Segment>(double)>& join);

// What HcclCommConfig says, as far as it concerns hostcann.
struct CommunicatorConfig {
  std::string name;
  double timeout_seconds;
};

// Reads an HcclCommConfig (null: the defaults). Returns false with a recorded error if it is not one.
bool read_config(const char* function, const void* config, CommunicatorConfig* result);

// Records a message and returns the code.
int refuse(Result code, const char* function, const std::string& reason);

// HCCL_CONNECT_TIMEOUT and HCCL_EXEC_TIMEOUT in seconds. Throws std::invalid_argument on a value that the documentation
// does not allow (EI0001).
double connect_timeout_seconds();
double execution_timeout_seconds();

}  // namespace hostcann::hccl

// Puts a collective on a stream.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "communicator.h"
#include "transfer.h"
#include "types.h"

namespace hostcann::hccl {

struct Collective {
  Function function;
  std::shared_ptr<Communicator> communicator;
  Envelope envelope;
  std::vector<Access> accesses;
  std::function<void()> before;           // on this rank alone; all there is to do with one rank
  std::function<void(Transfer&)> plan;    // adds the flows to and from the other ranks
  std::function<void()> after;            // on this rank alone, when everything has arrived
};

// What aclrtSynchronizeStream returns after a failed collective: a task that timed out, a task that failed.
constexpr aclError kTaskTimeout = 507048;
constexpr aclError kTaskException = 507049;

// Runs the flows; throws DeviceError.
void run_transfer(const Communicator& communicator, Transfer& transfer);

// Returns at once; an error of the collective itself becomes one of the stream. Returns a Result.
int launch(Collective collective, Stream stream);

// The checks that all functions share: a live communicator that has not failed, the data type, the operation (-1 for
// none), the size. Fills in function, communicator and envelope. Returns a Result.
int prepare(Function function, void* handle, uint64_t count, int data_type, int operation, int root,
            Collective* collective);

// Notes the access and refuses what is not device memory; reductions also need the alignment of their type.
int use_buffer(Collective* collective, const void* address, uint64_t bytes, bool write);

}  // namespace hostcann::hccl

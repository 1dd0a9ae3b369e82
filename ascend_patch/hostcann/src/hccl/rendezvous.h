// How the ranks of a new communicator find each other: over a socket in the abstract name space, which disappears with
// its process. One rank waits for all others and hands the shared memory to them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "segment.h"

namespace hostcann::hccl {


// A socket at which the ranks of a communicator will meet.
class Meeting {
 public:
  // Throws TransferError: the name is taken.
  explicit Meeting(const std::string& name);
  ~Meeting();
  Meeting(const Meeting&) = delete;
  Meeting& operator=(const Meeting&) = delete;

  // As `rank` of `ranks`: waits until all others have come. Throws TransferError (time-out, a rank that ended or does
  // not fit), which the others then get as well.
  std::shared_ptr<Segment> host(uint32_t rank, uint32_t ranks, double timeout_seconds);

 private:
  int listener_;
};

// As `rank` of `ranks`: goes to the meeting of this name. With `patient` the host may still be to come. Throws
// TransferError.
std::shared_ptr<Segment> attend(const std::string& name, uint32_t rank, uint32_t ranks, double timeout_seconds,
                                bool patient);

// Rank 0 hosts, the others attend: for communicators whose name all ranks can work out.
std::shared_ptr<Segment> meet(const std::string& name, uint32_t rank, uint32_t ranks, double timeout_seconds);

}  // namespace hostcann::hccl

// What libhccl offers to operators of libopapi that communicate on their own.
// Plain C++ functions exported by libhccl.so; all of them are thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hostcann/acl_types.h"

namespace hostcann {

// The size of the communicator of that name in this process, and this process's rank in it; size 0 if there is none.
struct Ranks {
  uint32_t size = 0;
  uint32_t rank = 0;
};
HOSTCANN_API Ranks find_ranks(const std::string& communicator);

// Keeps a communicator for operators, which may share it with nothing else: from now on its collectives are refused.
// False if a collective has run on it already.
HOSTCANN_API bool reserve_for_operators(const std::string& communicator);

// For an operator that runs on the communicator of collectives, as one of them. False if it is reserved.
HOSTCANN_API bool use_beside_collectives(const std::string& communicator);

// Bytes for a rank, or from it.
struct Piece {
  uint32_t peer;
  void* data;
  uint64_t bytes;
};

enum class Exchange { kDispatch, kCombine, kMatmulAllReduce };

// Sends and receives, until everything is through; inside the work of a launch. At most one piece to and one from each
// other rank, and none for the own one. `number` must be the same on all ranks. Throws DeviceError: a rank failed, or
// the ranks disagree.
HOSTCANN_API void exchange(const std::string& communicator, Exchange what, uint64_t number,
                           const std::vector<Piece>& sent, const std::vector<Piece>& received);

}  // namespace hostcann

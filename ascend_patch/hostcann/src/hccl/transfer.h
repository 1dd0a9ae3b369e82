// Moves bytes between the ranks of a communicator. A collective is a set of flows that one thread advances together;
// a flow may have to stay behind another one (reduce in the order of the ranks, send on what was reduced).
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

#include "segment.h"

namespace hostcann::hccl {

// target[i] = left[i] op right[i] for `bytes` bytes.
using Reduction = void (*)(void* target, const void* left, const void* right, size_t bytes);

// What the two ends of a message must agree on; the first 64 bytes of a message.
struct alignas(64) Envelope {
  uint32_t function = 0;   // Function
  int32_t data_type = 0;   // HcclDataType
  int32_t operation = -1;  // HcclReduceOp, -1 without
  int32_t root = -1;       // -1 without
  uint64_t count = 0;      // elements of the call
  uint64_t bytes = 0;      // that follow
  uint64_t number = 0;     // of the message between these two ranks; filled in by the transfer
};
static_assert(sizeof(Envelope) == 64);

// A failed collective: `code` is the communicator's Result.
struct TransferError : std::runtime_error {
  TransferError(int code, const std::string& message) : std::runtime_error(message), code(code) {}
  int code;
};

// One message to or from a peer.
struct Flow {
  Envelope envelope;  // `bytes` and `number` are filled in when it is sent
  uint32_t peer = 0;
  bool receives = false;
  const char* source = nullptr;  // sent; when reducing, the left operand
  char* target = nullptr;        // received
  uint64_t bytes = 0;
  Reduction reduction = nullptr;           // null: copy
  const uint64_t* limit = nullptr;         // only so far: another flow's `done`; null: no limit
  bool until_received = false;             // a send that ends when the peer has taken everything
  uint64_t done = 0;                       // bytes of the message behind us

  bool opened = false;       // the envelope is behind us
  uint64_t end = 0;          // position in the ring after the message, once it is written
  bool finished = false;
};

class Transfer {
 public:
  Transfer(const Segment& segment, uint32_t rank, const Envelope& envelope)
      : segment_(segment), rank_(rank), envelope_(envelope) {}

  // References stay valid. Several flows to (or from) the same peer happen in the order in which they were added.
  Flow& send(uint32_t peer, const void* source, uint64_t bytes, const uint64_t* limit = nullptr);
  Flow& receive(uint32_t peer, void* target, uint64_t bytes);

  // target = left op what is received.
  Flow& reduce(uint32_t peer, void* target, const void* left, uint64_t bytes, Reduction reduction,
               const uint64_t* limit = nullptr);

  // To other ranks, without envelopes.
  uint64_t bytes_to_send() const;

  // Runs all flows to the end. Throws TransferError: a peer ended or left, the ranks disagree, or nothing moved for
  // `timeout_seconds` (0: no limit). The communicator is then failed for all its ranks.
  void run(double timeout_seconds);

 private:
  Flow& add(const Flow& flow);
  bool advance();  // whether anything moved
  bool advance_send(Flow& flow);
  bool advance_receive(Flow& flow);
  void check(const Flow& flow, const Envelope& found) const;
  void check_peers();
  [[noreturn]] void give_up(int code, const std::string& message) const;
  void throw_if_failed() const;

  const Segment& segment_;
  uint32_t rank_;
  Envelope envelope_;
  std::deque<Flow> flows_;
  size_t unfinished_ = 0;
};

}  // namespace hostcann::hccl

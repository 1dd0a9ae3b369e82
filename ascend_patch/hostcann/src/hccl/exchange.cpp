#include "hostcann/exchange.h"

#include <string>

#include "launch.h"
#include "types.h"

namespace hostcann {

using namespace hccl;

Ranks find_ranks(const std::string& communicator) {
  const auto found = find(communicator);
  return found == nullptr ? Ranks{} : Ranks{found->size, found->rank};
}

bool reserve_for_operators(const std::string& communicator) {
  const auto found = find(communicator);
  return found != nullptr && found->take_for(Use::kOperators);
}

bool use_beside_collectives(const std::string& communicator) {
  const auto found = find(communicator);
  return found != nullptr && found->take_for(Use::kCollectives);
}

namespace {

Function function_of(Exchange what) {
  switch (what) {
    case Exchange::kDispatch: return Function::kDispatch;
    case Exchange::kCombine: return Function::kCombine;
    case Exchange::kMatmulAllReduce: return Function::kMatmulAllReduce;
  }
  return Function::kDispatch;
}

}  // namespace

void exchange(const std::string& communicator, Exchange what, uint64_t number, const std::vector<Piece>& sent,
              const std::vector<Piece>& received) {
  const auto found = find(communicator);
  if (found == nullptr || found->segment == nullptr) {
    throw DeviceError(kTaskException, "communicator " + communicator + " is gone");
  }
  const std::lock_guard lock(found->order);
  Envelope envelope;
  envelope.function = static_cast<uint32_t>(function_of(what));
  envelope.count = number;
  Transfer transfer(*found->segment, found->rank, envelope);
  for (const Piece& piece : sent) transfer.send(piece.peer, piece.data, piece.bytes);
  for (const Piece& piece : received) transfer.receive(piece.peer, piece.data, piece.bytes);
  run_transfer(*found, transfer);
}

}  // namespace hostcann

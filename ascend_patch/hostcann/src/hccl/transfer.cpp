#include "transfer.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "communicator.h"
#include "types.h"

namespace hostcann::hccl {
namespace {

constexpr uint64_t kUnit = 64;                     // rings move in multiples of it: pieces never split an element
constexpr uint64_t kPiece = uint64_t{64} << 10;    // published at once, so that the peer works at the same time
constexpr int kSpins = 64;
constexpr int kPeerCheckMilliseconds = 100;

uint64_t padded(uint64_t bytes) { return (bytes + kUnit - 1) / kUnit * kUnit; }

// How much of `wanted` may be moved: less than all of it only in whole units.
uint64_t whole_units(uint64_t possible, uint64_t wanted) {
  return possible >= wanted ? wanted : possible / kUnit * kUnit;
}

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

std::string describe(const Envelope& envelope) {
  std::string text = function_name(envelope.function);
  text += ", count " + std::to_string(envelope.count) + ", data type " + data_type_name(envelope.data_type);
  if (envelope.operation >= 0) text += ", op " + std::to_string(envelope.operation);
  if (envelope.root >= 0) text += ", root " + std::to_string(envelope.root);
  return text;
}

// A send is matched by a receive, any other function by itself.
uint32_t counterpart(uint32_t function) {
  return function == static_cast<uint32_t>(Function::kSend) ? static_cast<uint32_t>(Function::kRecv) : function;
}

}  // namespace

Flow& Transfer::add(const Flow& flow) {
  ++unfinished_;
  return flows_.emplace_back(flow);
}

Flow& Transfer::send(uint32_t peer, const void* source, uint64_t bytes, const uint64_t* limit) {
  Flow flow;
  flow.envelope = envelope_;
  flow.peer = peer;
  flow.source = static_cast<const char*>(source);
  flow.bytes = bytes;
  flow.limit = limit;
  return add(flow);
}

Flow& Transfer::receive(uint32_t peer, void* target, uint64_t bytes) {
  Flow flow;
  flow.envelope = envelope_;
  flow.peer = peer;
  flow.receives = true;
  flow.target = static_cast<char*>(target);
  flow.bytes = bytes;
  return add(flow);
}

Flow& Transfer::reduce(uint32_t peer, void* target, const void* left, uint64_t bytes, Reduction reduction,
                       const uint64_t* limit) {
  Flow& flow = receive(peer, target, bytes);
  flow.source = static_cast<const char*>(left);
  flow.reduction = reduction;
  flow.limit = limit;
  return flow;
}

uint64_t Transfer::bytes_to_send() const {
  uint64_t bytes = 0;
  for (const Flow& flow : flows_) {
    if (!flow.receives && flow.peer != rank_) bytes += flow.bytes;
  }
  return bytes;
}

void Transfer::run(double timeout_seconds) {
  using Clock = std::chrono::steady_clock;
  const Member& self = segment_.member(rank_);
  auto last_progress = Clock::now();
  int idle = 0;
  while (unfinished_ > 0) {
    const uint32_t seen = self.doorbell.load();
    if (advance()) {
      idle = 0;
      continue;
    }
    throw_if_failed();
    if (idle == 0) last_progress = Clock::now();
    if (++idle < kSpins) {
      pause();
      continue;
    }
    segment_.sleep(rank_, seen, kPeerCheckMilliseconds);
    if (self.doorbell.load() != seen) continue;
    check_peers();
    const double waited = std::chrono::duration<double>(Clock::now() - last_progress).count();
    if (timeout_seconds > 0 && waited >= timeout_seconds) {
      std::string missing;
      for (const Flow& flow : flows_) {
        if (!flow.finished && missing.find(" " + std::to_string(flow.peer) + ",") == std::string::npos) {
          missing += " " + std::to_string(flow.peer) + ",";
        }
      }
      missing.pop_back();
      char limit[32];
      std::snprintf(limit, sizeof limit, "%g", timeout_seconds);
      give_up(kTimeout, std::string("EI0002: nothing came from rank") + missing + " for " + limit +
                            " s (HCCL_EXEC_TIMEOUT); not all ranks have called " + function_name(envelope_.function));
    }
  }
}

bool Transfer::advance() {
  uint64_t busy[2] = {0, 0};  // peers with an earlier unfinished flow: sends, receives
  bool moved = false;
  for (Flow& flow : flows_) {
    if (flow.finished) continue;
    const uint64_t bit = uint64_t{1} << flow.peer;
    if ((busy[flow.receives] & bit) == 0) moved |= flow.receives ? advance_receive(flow) : advance_send(flow);
    if (!flow.finished) busy[flow.receives] |= bit;
  }
  return moved;
}

bool Transfer::advance_send(Flow& flow) {
  Ring& ring = segment_.ring(rank_, flow.peer);
  char* const data = segment_.ring_data(rank_, flow.peer);
  const uint64_t capacity = segment_.header().ring_bytes;
  uint64_t written = ring.written.load(std::memory_order_relaxed);
  const uint64_t before = written;
  uint64_t space = capacity - (written - ring.read.load(std::memory_order_acquire));
  if (!flow.opened && space >= kUnit) {
    Envelope envelope = flow.envelope;
    envelope.bytes = flow.bytes;
    envelope.number = ring.messages_written++;
    std::memcpy(data + written % capacity, &envelope, sizeof envelope);
    written += kUnit;
    space -= kUnit;
    flow.opened = true;
  }
  if (flow.opened && flow.done < flow.bytes) {
    const uint64_t ready = flow.limit == nullptr ? flow.bytes : *flow.limit;
    const uint64_t position = written % capacity;
    const uint64_t room = std::min({space, capacity - position, kPiece});
    const uint64_t bytes = whole_units(std::min(ready - flow.done, room), flow.bytes - flow.done);
    std::memcpy(data + position, flow.source + flow.done, bytes);
    flow.done += bytes;
    written += padded(bytes);
  }
  bool moved = written != before;
  if (moved) {
    ring.written.store(written, std::memory_order_release);
    segment_.notify(flow.peer);
  }
  if (flow.opened && flow.done == flow.bytes) {
    if (flow.end == 0) flow.end = written;
    if (!flow.until_received || ring.read.load(std::memory_order_acquire) >= flow.end) {
      flow.finished = true;
      --unfinished_;
      moved = true;
    }
  }
  return moved;
}

bool Transfer::advance_receive(Flow& flow) {
  Ring& ring = segment_.ring(flow.peer, rank_);
  const char* const data = segment_.ring_data(flow.peer, rank_);
  const uint64_t capacity = segment_.header().ring_bytes;
  uint64_t read = ring.read.load(std::memory_order_relaxed);
  const uint64_t before = read;
  uint64_t available = ring.written.load(std::memory_order_acquire) - read;
  if (!flow.opened && available >= kUnit) {
    Envelope envelope;
    std::memcpy(&envelope, data + read % capacity, sizeof envelope);
    if (envelope.number != ring.messages_read++) give_up(kInternal, "a message is missing");
    check(flow, envelope);
    read += kUnit;
    available -= kUnit;
    flow.opened = true;
  }
  if (flow.opened && flow.done < flow.bytes) {
    const uint64_t ready = flow.limit == nullptr ? flow.bytes : *flow.limit;
    const uint64_t position = read % capacity;
    const uint64_t possible = std::min({available, capacity - position, kPiece});
    const uint64_t bytes = whole_units(std::min(ready - flow.done, possible), flow.bytes - flow.done);
    if (flow.reduction != nullptr) {
      flow.reduction(flow.target + flow.done, flow.source + flow.done, data + position, bytes);
    } else {
      std::memcpy(flow.target + flow.done, data + position, bytes);
    }
    flow.done += bytes;
    read += padded(bytes);
  }
  bool moved = read != before;
  if (moved) {
    ring.read.store(read, std::memory_order_release);
    segment_.notify(flow.peer);
  }
  if (flow.opened && flow.done == flow.bytes) {
    flow.finished = true;
    --unfinished_;
    moved = true;
  }
  return moved;
}

void Transfer::check(const Flow& flow, const Envelope& found) const {
  const bool same = flow.envelope.function == counterpart(found.function) && flow.envelope.data_type == found.data_type &&
                    flow.envelope.operation == found.operation && flow.envelope.root == found.root &&
                    flow.envelope.count == found.count && flow.bytes == found.bytes;
  if (same) return;
  std::string message = "EI0005: the arguments for collective communication are inconsistent between ranks: rank " +
                        std::to_string(rank_) + " called " + describe(flow.envelope) + ", rank " +
                        std::to_string(flow.peer) + " called " + describe(found);
  if (flow.envelope.count == found.count && flow.bytes != found.bytes) {
    message += "; " + std::to_string(flow.bytes) + " bytes expected, " + std::to_string(found.bytes) + " sent";
  }
  give_up(kParameterMismatch, message);
}

void Transfer::check_peers() {
  for (const Flow& flow : flows_) {
    if (flow.finished || flow.peer == rank_) continue;
    const Member& peer = segment_.member(flow.peer);
    const bool left = peer.presence.load(std::memory_order_acquire) == Presence::kLeft;
    if (!left && peer.process.alive()) continue;
    if (advance()) return;  // what it had sent before
    if (flow.finished) continue;
    give_up(kRemote, "rank " + std::to_string(flow.peer) +
                         (left ? " has destroyed the communicator"
                               : " (process " + std::to_string(peer.process.pid) + ") has ended"));
  }
}

void Transfer::throw_if_failed() const {
  if (!segment_.failed()) return;
  const SegmentHeader& header = segment_.header();
  throw TransferError(header.failure_code, std::string("the communicator has failed: ") + header.failure);
}

void Transfer::give_up(int code, const std::string& message) const {
  segment_.fail_all(code, message + " (seen by rank " + std::to_string(rank_) + ")");
  throw TransferError(code, message);
}

}  // namespace hostcann::hccl

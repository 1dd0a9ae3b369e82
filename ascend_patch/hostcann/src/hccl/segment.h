// The memory that the ranks of a communicator share: who they are, and a ring of bytes for each ordered pair of ranks.
// It is a memfd: it has no name, so that nothing stays behind however the processes end, and its size is not limited by
// the mount of /dev/shm.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace hostcann::hccl {

constexpr uint32_t kMostRanks = 64;  // as many devices as HOSTCANN_DEVICES allows

// A process, recognised even if its number is used again.
struct ProcessId {
  int32_t pid = 0;
  uint64_t start_ticks = 0;

  static ProcessId self();
  bool alive() const;  // false also for a process that has ended and was not waited for
};

enum class Presence : uint32_t { kAbsent, kPresent, kLeft };

// One rank. The doorbell counts what happened to its rings; it sleeps on it (futex).
struct alignas(64) Member {
  std::atomic<uint32_t> doorbell;
  std::atomic<uint32_t> sleeping;
  std::atomic<Presence> presence;
  ProcessId process;
};

// A message is an envelope followed by its bytes; both are written in multiples of 64 bytes.
struct alignas(64) Ring {
  std::atomic<uint64_t> written;  // bytes since the beginning; this and the next only the sender changes
  uint64_t messages_written;
  alignas(64) std::atomic<uint64_t> read;  // this and the next only the receiver changes
  uint64_t messages_read;
};

struct alignas(64) SegmentHeader {
  uint64_t unique;  // the same number on all ranks, different for every communicator
  uint32_t ranks;
  uint32_t ring_bytes;
  std::atomic<uint32_t> failed;  // 1: being written, 2: `failure` holds the text; all ranks stop
  int32_t failure_code;          // Result
  char failure[512];
};

class Segment {
 public:
  // Makes a new one. Throws std::runtime_error.
  static std::shared_ptr<Segment> create(uint32_t ranks, int* descriptor);

  // Maps one that another process made; takes over nothing. Throws std::runtime_error.
  static std::shared_ptr<Segment> open(int descriptor, uint32_t ranks);

  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  SegmentHeader& header() const { return *static_cast<SegmentHeader*>(address_); }
  Member& member(uint32_t rank) const;
  Ring& ring(uint32_t from, uint32_t to) const;
  char* ring_data(uint32_t from, uint32_t to) const;

  // Registers the calling process as `rank`.
  void enter(uint32_t rank) const;

  // Wakes a rank that waits for something to happen to its rings.
  void notify(uint32_t rank) const;

  // Sleeps until the doorbell of `rank` differs from `seen`, or for `milliseconds`.
  void sleep(uint32_t rank, uint32_t seen, int milliseconds) const;

  // Marks the communicator as failed, unless it is already, and wakes all ranks.
  void fail_all(int code, const std::string& message) const;

  bool failed() const { return header().failed.load(std::memory_order_acquire) == 2; }

 private:
  Segment(void* address, size_t bytes) : address_(address), bytes_(bytes) {}
  static size_t bytes_for(uint32_t ranks);

  void* address_;
  size_t bytes_;
};

}  // namespace hostcann::hccl

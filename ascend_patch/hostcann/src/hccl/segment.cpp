#include "segment.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <new>
#include <stdexcept>

namespace hostcann::hccl {
namespace {

constexpr size_t kRingBytes = size_t{256} << 10;  // fits the cores' caches; larger messages go through in pieces

long futex(std::atomic<uint32_t>* word, int operation, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation, value, timeout, nullptr, 0);
}

// Field 22 of /proc/<pid>/stat, the start in clock ticks after boot; 0 if there is no such process or it has ended.
uint64_t start_ticks(int pid) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
  std::FILE* const file = std::fopen(path, "re");
  if (file == nullptr) return 0;
  char text[1024];
  const size_t length = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  text[length] = '\0';
  const char* const name_end = std::strrchr(text, ')');  // the name before it may hold blanks and parentheses
  if (name_end == nullptr) return 0;
  char state = 0;
  unsigned long long ticks = 0;
  constexpr const char* kFormat = " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu";
  if (std::sscanf(name_end + 1, kFormat, &state, &ticks) != 2) return 0;
  return state == 'Z' || state == 'X' ? 0 : ticks;
}

[[noreturn]] void throw_errno(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

size_t members_offset() { return sizeof(SegmentHeader); }
size_t rings_offset(uint32_t ranks) { return members_offset() + ranks * sizeof(Member); }
size_t data_offset(uint32_t ranks) {
  constexpr size_t kPage = 4096;
  return (rings_offset(ranks) + size_t{ranks} * ranks * sizeof(Ring) + kPage - 1) / kPage * kPage;
}

}  // namespace

ProcessId ProcessId::self() {
  const int32_t pid = static_cast<int32_t>(getpid());
  return {pid, hccl::start_ticks(pid)};
}

bool ProcessId::alive() const {
  const uint64_t ticks = hccl::start_ticks(pid);
  return ticks != 0 && ticks == start_ticks;
}

size_t Segment::bytes_for(uint32_t ranks) { return data_offset(ranks) + size_t{ranks} * ranks * kRingBytes; }

std::shared_ptr<Segment> Segment::create(uint32_t ranks, int* descriptor) {
  const int file = memfd_create("hostcann-hccl", MFD_CLOEXEC);
  if (file < 0) throw_errno("cannot create shared memory");
  const size_t bytes = bytes_for(ranks);
  if (ftruncate(file, static_cast<off_t>(bytes)) != 0) {
    close(file);
    throw_errno("cannot size shared memory");
  }
  std::shared_ptr<Segment> segment;
  try {
    segment = open(file, ranks);
  } catch (...) {
    close(file);
    throw;
  }
  // The memory is zero, which is the initial state of everything else in it.
  SegmentHeader* const header = new (segment->address_) SegmentHeader{};
  header->ranks = ranks;
  header->ring_bytes = kRingBytes;
  if (getrandom(&header->unique, sizeof header->unique, 0) != sizeof header->unique) {
    close(file);
    throw_errno("cannot read random numbers");
  }
  *descriptor = file;
  return segment;
}

std::shared_ptr<Segment> Segment::open(int descriptor, uint32_t ranks) {
  const size_t bytes = bytes_for(ranks);
  void* const address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (address == MAP_FAILED) throw_errno("cannot map shared memory");
  return std::shared_ptr<Segment>(new Segment(address, bytes));
}

Segment::~Segment() { munmap(address_, bytes_); }

Member& Segment::member(uint32_t rank) const {
  return reinterpret_cast<Member*>(static_cast<char*>(address_) + members_offset())[rank];
}

Ring& Segment::ring(uint32_t from, uint32_t to) const {
  const uint32_t ranks = header().ranks;
  return reinterpret_cast<Ring*>(static_cast<char*>(address_) + rings_offset(ranks))[size_t{from} * ranks + to];
}

char* Segment::ring_data(uint32_t from, uint32_t to) const {
  const uint32_t ranks = header().ranks;
  return static_cast<char*>(address_) + data_offset(ranks) + (size_t{from} * ranks + to) * kRingBytes;
}

void Segment::enter(uint32_t rank) const {
  Member& self = member(rank);
  self.process = ProcessId::self();
  self.presence.store(Presence::kPresent, std::memory_order_release);
}

void Segment::notify(uint32_t rank) const {
  Member& other = member(rank);
  other.doorbell.fetch_add(1);
  if (other.sleeping.load() != 0) futex(&other.doorbell, FUTEX_WAKE, INT_MAX, nullptr);
}

void Segment::sleep(uint32_t rank, uint32_t seen, int milliseconds) const {
  Member& self = member(rank);
  self.sleeping.store(1);
  if (self.doorbell.load() == seen) {
    const timespec timeout{milliseconds / 1000, milliseconds % 1000 * 1000000L};
    futex(&self.doorbell, FUTEX_WAIT, seen, &timeout);
  }
  self.sleeping.store(0);
}

void Segment::fail_all(int code, const std::string& message) const {
  SegmentHeader& all = header();
  uint32_t fine = 0;
  if (all.failed.compare_exchange_strong(fine, 1)) {
    all.failure_code = code;
    std::snprintf(all.failure, sizeof all.failure, "%s", message.c_str());
    all.failed.store(2, std::memory_order_release);
  }
  for (uint32_t rank = 0; rank < all.ranks; ++rank) notify(rank);
}

}  // namespace hostcann::hccl

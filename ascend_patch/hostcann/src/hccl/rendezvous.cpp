#include "rendezvous.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "communicator.h"
#include "transfer.h"

namespace hostcann::hccl {
namespace {

constexpr uint32_t kMagic = 0x68634831;  // changes with what is exchanged or with the layout of the segment

struct Hello {
  uint32_t magic;
  uint32_t rank;
  uint32_t ranks;
};

struct Answer {
  int32_t code;
  char message[252];
};

class Socket {
 public:
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(other.descriptor_) { other.descriptor_ = -1; }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

class Deadline {
 public:
  explicit Deadline(double seconds) : end_(Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                              std::chrono::duration<double>(seconds))) {}
  int milliseconds() const {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end_ - Clock::now()).count();
    return left > 0 ? static_cast<int>(left) + 1 : 0;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point end_;
};

[[noreturn]] void throw_errno(const char* what) {
  throw TransferError(kSystemCall, std::string(what) + ": " + std::strerror(errno));
}

sockaddr_un address_of(const std::string& name, socklen_t* length) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string full = "hostcann-hccl/" + name;  // after a zero byte: the abstract name space
  const size_t bytes = std::min(full.size(), sizeof address.sun_path - 1);
  std::memcpy(address.sun_path + 1, full.data(), bytes);
  *length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + bytes);
  return address;
}

std::string rank_list(const std::vector<bool>& present) {
  std::string text;
  for (size_t rank = 0; rank < present.size(); ++rank) {
    if (!present[rank]) text += (text.empty() ? "" : ", ") + std::to_string(rank);
  }
  return text;
}

// Sends the answer and, with success, the shared memory. A peer that has ended meanwhile is noticed later.
void answer(int socket, int code, const std::string& message, int descriptor) {
  Answer text{};
  text.code = code;
  std::snprintf(text.message, sizeof text.message, "%s", message.c_str());
  iovec part{&text, sizeof text};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (descriptor >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* const attached = CMSG_FIRSTHDR(&header);
    attached->cmsg_level = SOL_SOCKET;
    attached->cmsg_type = SCM_RIGHTS;
    attached->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(attached), &descriptor, sizeof descriptor);
  }
  static_cast<void>(sendmsg(socket, &header, MSG_NOSIGNAL));
}

// What is wrong with a rank that came; empty if nothing.
std::string objection(const Hello& hello, ssize_t bytes, uint32_t ranks, const std::vector<bool>& present) {
  if (bytes != sizeof hello || hello.magic != kMagic) return "the ranks run different versions of hostcann";
  const std::string rank = "rank " + std::to_string(hello.rank);
  if (hello.ranks != ranks) {
    return rank + " joins a communicator of " + std::to_string(hello.ranks) + " ranks, others one of " +
           std::to_string(ranks);
  }
  if (hello.rank >= ranks) return rank + " is not below the number of ranks";
  if (present[hello.rank]) return rank + " came twice";
  return "";
}

}  // namespace

Meeting::Meeting(const std::string& name) {
  listener_ = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (listener_ < 0) throw_errno("cannot create a socket");
  socklen_t length = 0;
  const sockaddr_un address = address_of(name, &length);
  if (bind(listener_, reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      listen(listener_, static_cast<int>(kMostRanks)) != 0) {
    const int error = errno;
    close(listener_);
    errno = error;
    throw_errno(("cannot listen as " + name).c_str());
  }
}

Meeting::~Meeting() { close(listener_); }

std::shared_ptr<Segment> Meeting::host(uint32_t rank, uint32_t ranks, double timeout_seconds) {
  std::vector<bool> present(ranks);
  present[rank] = true;
  std::vector<Socket> guests;
  const auto fail_all = [&guests](int code, const std::string& message) {
    for (const Socket& guest : guests) answer(guest.get(), code, message, -1);
    throw TransferError(code, message);
  };
  const Deadline deadline(timeout_seconds);
  while (guests.size() + 1 < ranks) {
    std::vector<pollfd> watched{{listener_, POLLIN, 0}};
    for (const Socket& guest : guests) watched.push_back({guest.get(), POLLIN, 0});
    const int ready = poll(watched.data(), watched.size(), deadline.milliseconds());
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) {
      fail_all(kTimeout, "EI0006: rank " + rank_list(present) + " did not join within " +
                             std::to_string(static_cast<int>(timeout_seconds)) + " s (HCCL_CONNECT_TIMEOUT)");
    }
    for (size_t i = 1; i < watched.size(); ++i) {  // guests say nothing after their hello: they have ended
      if (watched[i].revents != 0) fail_all(kRemote, "a rank ended while the communicator was being created");
    }
    if (watched[0].revents == 0) continue;
    guests.emplace_back(accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC));
    const int guest = guests.back().get();
    if (guest < 0) throw_errno("cannot accept a rank");
    Hello hello{};
    pollfd waiting{guest, POLLIN, 0};
    poll(&waiting, 1, deadline.milliseconds());
    const ssize_t bytes = recv(guest, &hello, sizeof hello, MSG_DONTWAIT);
    const std::string wrong = objection(hello, bytes, ranks, present);
    if (!wrong.empty()) fail_all(kBadParameter, wrong);
    present[hello.rank] = true;
  }
  int descriptor = -1;
  std::shared_ptr<Segment> segment;
  try {
    segment = Segment::create(ranks, &descriptor);
  } catch (const std::exception& error) {
    fail_all(kMemory, error.what());
  }
  const Socket owner(descriptor);
  segment->enter(rank);
  // A later meeting of the same name must not be attended here.
  close(listener_);
  listener_ = -1;
  for (const Socket& guest : guests) answer(guest.get(), kOk, "", descriptor);
  // Each says that it has entered: from then on its end is seen in the segment.
  for (const Socket& guest : guests) {
    char entered = 0;
    pollfd waiting{guest.get(), POLLIN, 0};
    if (poll(&waiting, 1, deadline.milliseconds()) <= 0 || recv(guest.get(), &entered, 1, MSG_DONTWAIT) != 1) {
      fail_all(kRemote, "a rank ended while the communicator was being created");
    }
  }
  for (const Socket& guest : guests) answer(guest.get(), kOk, "", -1);
  return segment;
}

namespace {

// Receives an answer; the descriptor is -1 if none came with it.
int receive_answer(int socket, const Deadline& deadline, double timeout_seconds) {
  pollfd waiting{socket, POLLIN, 0};
  int ready = 0;
  do {
    ready = poll(&waiting, 1, deadline.milliseconds());
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) {
    throw TransferError(kTimeout, "EI0006: not all ranks joined within " +
                                      std::to_string(static_cast<int>(timeout_seconds)) +
                                      " s (HCCL_CONNECT_TIMEOUT)");
  }
  Answer text{};
  iovec part{&text, sizeof text};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  if (recvmsg(socket, &header, MSG_CMSG_CLOEXEC) != sizeof text) {
    throw TransferError(kRemote, "the rank that brings the others together has ended");
  }
  if (text.code != kOk) throw TransferError(text.code, text.message);
  const cmsghdr* const attached = CMSG_FIRSTHDR(&header);
  if (attached == nullptr || attached->cmsg_type != SCM_RIGHTS) return -1;
  int descriptor = -1;
  std::memcpy(&descriptor, CMSG_DATA(attached), sizeof descriptor);
  return descriptor;
}

}  // namespace

std::shared_ptr<Segment> attend(const std::string& name, uint32_t rank, uint32_t ranks, double timeout_seconds,
                                bool patient) {
  const Deadline deadline(timeout_seconds + 1);  // the host knows better what is missing: let it speak first
  const Socket connection(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (connection.get() < 0) throw_errno("cannot create a socket");
  socklen_t length = 0;
  const sockaddr_un address = address_of(name, &length);
  while (connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    if (errno != ECONNREFUSED && errno != EAGAIN && errno != EINTR) throw_errno("cannot reach the other ranks");
    if (!patient && errno == ECONNREFUSED) {
      throw TransferError(kTcpConnect, "the process that made the root info has ended, or the root info was used");
    }
    if (deadline.milliseconds() == 0) {
      throw TransferError(kTimeout, "EI0006: rank 0 did not join within " +
                                        std::to_string(static_cast<int>(timeout_seconds)) +
                                        " s (HCCL_CONNECT_TIMEOUT)");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const Hello hello{kMagic, rank, ranks};
  if (send(connection.get(), &hello, sizeof hello, MSG_NOSIGNAL) != sizeof hello) {
    throw TransferError(kRemote, "the rank that brings the others together has ended");
  }
  const Socket memory(receive_answer(connection.get(), deadline, timeout_seconds));
  std::shared_ptr<Segment> segment;
  try {
    segment = Segment::open(memory.get(), ranks);
  } catch (const std::exception& error) {
    throw TransferError(kMemory, error.what());
  }
  segment->enter(rank);
  const char entered = 1;
  static_cast<void>(send(connection.get(), &entered, 1, MSG_NOSIGNAL));
  receive_answer(connection.get(), deadline, timeout_seconds);  // all have entered
  return segment;
}

std::shared_ptr<Segment> meet(const std::string& name, uint32_t rank, uint32_t ranks, double timeout_seconds) {
  if (rank == 0) return Meeting(name).host(rank, ranks, timeout_seconds);
  return attend(name, rank, ranks, timeout_seconds, true);
}

}  // namespace hostcann::hccl

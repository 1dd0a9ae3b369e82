// Collectives in which the ranks move different amounts. Counts and displacements are arrays of 64-bit numbers in host
// memory, in elements; they are read before the call returns.
#include <cstring>

#include "launch.h"

using namespace hostcann;
using namespace hostcann::hccl;

namespace {

struct Part {
  uint64_t offset;  // bytes
  uint64_t bytes;
};

std::vector<Part> parts(const uint64_t* counts, const uint64_t* displacements, uint32_t size, size_t element) {
  std::vector<Part> result;
  for (uint32_t i = 0; i < size; ++i) result.push_back({displacements[i] * element, counts[i] * element});
  return result;
}

// How far the parts reach.
uint64_t extent(const std::vector<Part>& all) {
  uint64_t end = 0;
  for (const Part& part : all) {
    if (part.bytes > 0) end = std::max(end, part.offset + part.bytes);
  }
  return end;
}

// Sends parts of `source` to the ranks and receives parts of `target` from them. What a rank sends itself is copied.
int exchange(Collective call, const void* source, std::vector<Part> sent, const void* target,
             std::vector<Part> received, Stream stream) {
  const uint32_t rank = call.communicator->rank;
  const char* const name = function_name(call.function);
  if (sent[rank].bytes != received[rank].bytes) {
    return refuse(kBadParameter, name, "what the rank sends itself differs from what it receives from itself");
  }
  int code = use_buffer(&call, source, extent(sent), false);
  if (code == kOk) code = use_buffer(&call, target, extent(received), true);
  if (code != kOk) return code;
  const auto* const from = static_cast<const char*>(source);
  const auto to = static_cast<char*>(const_cast<void*>(target));
  const Part own = sent[rank];
  const uint64_t own_target = received[rank].offset;
  if (own.bytes > 0) call.before = [=] { std::memmove(to + own_target, from + own.offset, own.bytes); };
  call.plan = [=, sent = std::move(sent), received = std::move(received)](Transfer& transfer) {
    const auto size = static_cast<uint32_t>(sent.size());
    for (uint32_t step = 1; step < size; ++step) {
      const uint32_t to_peer = (rank + step) % size;
      const uint32_t from_peer = (rank + size - step) % size;
      transfer.send(to_peer, from + sent[to_peer].offset, sent[to_peer].bytes);
      transfer.receive(from_peer, to + received[from_peer].offset, received[from_peer].bytes);
    }
  };
  return launch(std::move(call), stream);
}

int check_types(const char* function, int sent, int received) {
  return sent == received ? kOk : refuse(kBadParameter, function, "the data types sent and received differ");
}

}  // namespace

ACL_API int HcclAlltoAll(const void* source, uint64_t count, int data_type, const void* target, uint64_t received,
                         int received_type, void* handle, Stream stream) {
  Collective call;
  int code = prepare(Function::kAlltoAll, handle, count, data_type, -1, -1, &call);
  if (code == kOk) code = check_types("HcclAlltoAll", data_type, received_type);
  if (code != kOk) return code;
  if (count != received) return refuse(kBadParameter, "HcclAlltoAll", "the counts sent and received differ");
  const uint64_t bytes = count * element_bytes(data_type);
  std::vector<Part> equal;
  for (uint32_t i = 0; i < call.communicator->size; ++i) equal.push_back({i * bytes, bytes});
  return exchange(std::move(call), source, equal, target, equal, stream);
}

ACL_API int HcclAlltoAllV(const void* source, const uint64_t* counts, const uint64_t* displacements, int data_type,
                          const void* target, const uint64_t* received_counts, const uint64_t* received_displacements,
                          int received_type, void* handle, Stream stream) {
  constexpr const char* kFunction = "HcclAlltoAllV";
  if (counts == nullptr || displacements == nullptr || received_counts == nullptr || received_displacements == nullptr) {
    return refuse(kNullPointer, kFunction, "null array");
  }
  Collective call;
  int code = prepare(Function::kAlltoAllV, handle, 0, data_type, -1, -1, &call);
  if (code == kOk) code = check_types(kFunction, data_type, received_type);
  if (code != kOk) return code;
  const uint32_t size = call.communicator->size;
  const size_t element = element_bytes(data_type);
  return exchange(std::move(call), source, parts(counts, displacements, size, element), target,
                  parts(received_counts, received_displacements, size, element), stream);
}

// matrix[i][j]: what rank i sends to rank j. Both buffers are filled without gaps, in the order of the ranks.
ACL_API int HcclAlltoAllVC(const void* source, const uint64_t* matrix, int data_type, const void* target,
                           int received_type, void* handle, Stream stream) {
  constexpr const char* kFunction = "HcclAlltoAllVC";
  if (matrix == nullptr) return refuse(kNullPointer, kFunction, "null array");
  Collective call;
  int code = prepare(Function::kAlltoAllVC, handle, 0, data_type, -1, -1, &call);
  if (code == kOk) code = check_types(kFunction, data_type, received_type);
  if (code != kOk) return code;
  const uint32_t rank = call.communicator->rank;
  const uint32_t size = call.communicator->size;
  const size_t element = element_bytes(data_type);
  std::vector<Part> sent;
  std::vector<Part> received;
  uint64_t sent_offset = 0;
  uint64_t received_offset = 0;
  for (uint32_t i = 0; i < size; ++i) {
    sent.push_back({sent_offset, matrix[rank * size + i] * element});
    received.push_back({received_offset, matrix[i * size + rank] * element});
    sent_offset += sent.back().bytes;
    received_offset += received.back().bytes;
  }
  return exchange(std::move(call), source, std::move(sent), target, std::move(received), stream);
}

ACL_API int HcclAllGatherV(void* source, uint64_t count, void* target, const uint64_t* counts,
                           const uint64_t* displacements, int data_type, void* handle, Stream stream) {
  constexpr const char* kFunction = "HcclAllGatherV";
  if (counts == nullptr || displacements == nullptr) return refuse(kNullPointer, kFunction, "null array");
  Collective call;
  const int code = prepare(Function::kAllGatherV, handle, 0, data_type, -1, -1, &call);
  if (code != kOk) return code;
  const uint32_t size = call.communicator->size;
  if (counts[call.communicator->rank] != count) {
    return refuse(kBadParameter, kFunction, "sendCount is not this rank's entry in recvCounts");
  }
  const size_t element = element_bytes(data_type);
  return exchange(std::move(call), source, std::vector<Part>(size, {0, count * element}), target,
                  parts(counts, displacements, size, element), stream);
}

ACL_API int HcclReduceScatterV(void* source, const uint64_t* counts, const uint64_t* displacements, void* target,
                               uint64_t count, int data_type, int operation, void* handle, Stream stream) {
  constexpr const char* kFunction = "HcclReduceScatterV";
  if (counts == nullptr || displacements == nullptr) return refuse(kNullPointer, kFunction, "null array");
  Collective call;
  int code = prepare(Function::kReduceScatterV, handle, 0, data_type, operation, -1, &call);
  if (code != kOk) return code;
  const uint32_t rank = call.communicator->rank;
  const uint32_t size = call.communicator->size;
  if (counts[rank] != count) {
    return refuse(kBadParameter, kFunction, "recvCount is not this rank's entry in sendCounts");
  }
  const std::vector<Part> sent = parts(counts, displacements, size, element_bytes(data_type));
  const uint64_t bytes = sent[rank].bytes;
  if ((code = use_buffer(&call, source, extent(sent), false)) != kOk) return code;
  if ((code = use_buffer(&call, target, bytes, true)) != kOk) return code;
  const auto* const from = static_cast<const char*>(source);
  const Reduction reduction = find_reduction(data_type, operation);
  if (size == 1) call.before = [=] { std::memmove(target, from + sent[rank].offset, bytes); };
  const auto result = std::make_shared<std::vector<char>>();  // the target may lie in a part that is still to be sent
  call.plan = [=](Transfer& transfer) {
    result->resize(bytes);
    const char* left = from + sent[rank].offset;
    const uint64_t* behind = nullptr;
    for (uint32_t step = 1; step < size; ++step) {
      const uint32_t peer = (rank + step) % size;
      transfer.send(peer, from + sent[peer].offset, sent[peer].bytes);
      Flow& flow = transfer.reduce(peer, result->data(), left, bytes, reduction, behind);
      behind = &flow.done;
      left = result->data();
    }
  };
  if (size > 1) {
    call.after = [=] {
      if (bytes > 0) std::memcpy(target, result->data(), bytes);
    };
  }
  return launch(std::move(call), stream);
}

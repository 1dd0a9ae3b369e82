// Collectives in which all ranks move the same amount. Reductions always happen in the same order, so that all ranks
// get the same bits and every run the same result.
#include <algorithm>
#include <cstring>
#include <functional>

#include "launch.h"

using namespace hostcann;
using namespace hostcann::hccl;

namespace {

// Up to here an all-reduce goes in one step: every rank sends everything to all others.
constexpr uint64_t kOneStepBytes = uint64_t{32} << 10;

std::function<void()> copier(const void* source, void* target, uint64_t bytes) {
  return [=] {
    if (bytes > 0 && target != source) std::memmove(target, source, bytes);
  };
}

bool overlap(const void* a, uint64_t a_bytes, const void* b, uint64_t b_bytes) {
  const auto first = reinterpret_cast<uintptr_t>(a);
  const auto second = reinterpret_cast<uintptr_t>(b);
  return first < second + b_bytes && second < first + a_bytes;
}

// target = own op (what all other ranks send, in their order). Returns how far that is.
const uint64_t* reduce_from_all(Transfer& transfer, uint32_t rank, uint32_t size, char* target, const char* own,
                                uint64_t bytes, Reduction reduction) {
  const uint64_t* behind = nullptr;
  const char* left = own;
  for (uint32_t step = 1; step < size; ++step) {
    Flow& flow = transfer.reduce((rank + step) % size, target, left, bytes, reduction, behind);
    behind = &flow.done;
    left = target;
  }
  return behind;
}

// One step: collects what the others have, then reduces in the order of the ranks.
void plan_all_reduce_at_once(Collective* call, const char* from, char* to, uint64_t bytes, Reduction reduction) {
  const uint32_t rank = call->communicator->rank;
  const uint32_t size = call->communicator->size;
  auto parts = std::make_shared<std::vector<std::vector<char>>>();
  call->plan = [=](Transfer& transfer) {
    parts->assign(size, {});
    for (uint32_t peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      transfer.send(peer, from, bytes);
      (*parts)[peer].resize(bytes);
      transfer.receive(peer, (*parts)[peer].data(), bytes);
    }
  };
  call->after = [=] {
    (*parts)[rank].assign(from, from + bytes);
    std::memcpy(to, (*parts)[0].data(), bytes);
    for (uint32_t peer = 1; peer < size; ++peer) reduction(to, to, (*parts)[peer].data(), bytes);
  };
}

// Every rank reduces one part and sends the result to all others.
void plan_all_reduce_by_parts(Collective* call, const char* from, char* to, uint64_t bytes, Reduction reduction) {
  constexpr uint64_t kUnit = 64;
  const uint32_t rank = call->communicator->rank;
  const uint32_t size = call->communicator->size;
  const uint64_t part = (bytes / size + kUnit - 1) / kUnit * kUnit;
  const auto begin = [=](uint32_t index) { return std::min(part * index, bytes); };
  const auto length = [=](uint32_t index) { return (index + 1 == size ? bytes : begin(index + 1)) - begin(index); };
  call->plan = [=](Transfer& transfer) {
    for (uint32_t step = 1; step < size; ++step) {
      const uint32_t peer = (rank + step) % size;
      transfer.send(peer, from + begin(peer), length(peer));
    }
    char* const mine = to + begin(rank);
    const uint64_t* const reduced =
        reduce_from_all(transfer, rank, size, mine, from + begin(rank), length(rank), reduction);
    for (uint32_t step = 1; step < size; ++step) {
      const uint32_t peer = (rank + step) % size;
      transfer.send(peer, mine, length(rank), reduced);
      transfer.receive(peer, to + begin(peer), length(peer));
    }
  };
}

}  // namespace

ACL_API int HcclAllReduce(void* source, void* target, uint64_t count, int data_type, int operation, void* handle,
                          Stream stream) {
  Collective call;
  int code = prepare(Function::kAllReduce, handle, count, data_type, operation, -1, &call);
  if (code != kOk || count == 0) return code;
  const uint64_t bytes = count * element_bytes(data_type);
  if ((code = use_buffer(&call, source, bytes, false)) != kOk) return code;
  if ((code = use_buffer(&call, target, bytes, true)) != kOk) return code;
  const auto* const from = static_cast<const char*>(source);
  const auto to = static_cast<char*>(target);
  const Reduction reduction = find_reduction(data_type, operation);
  if (call.communicator->size == 1) {
    call.before = copier(source, target, bytes);
  } else if (bytes <= kOneStepBytes) {
    plan_all_reduce_at_once(&call, from, to, bytes, reduction);
  } else {
    plan_all_reduce_by_parts(&call, from, to, bytes, reduction);
  }
  return launch(std::move(call), stream);
}

ACL_API int HcclReduce(void* source, void* target, uint64_t count, int data_type, int operation, uint32_t root,
                       void* handle, Stream stream) {
  Collective call;
  int code = prepare(Function::kReduce, handle, count, data_type, operation, static_cast<int>(root), &call);
  if (code != kOk || count == 0) return code;
  const uint64_t bytes = count * element_bytes(data_type);
  const uint32_t rank = call.communicator->rank;
  const uint32_t size = call.communicator->size;
  if ((code = use_buffer(&call, source, bytes, false)) != kOk) return code;
  if (rank == root && (code = use_buffer(&call, target, bytes, true)) != kOk) return code;
  const Reduction reduction = find_reduction(data_type, operation);
  if (size == 1) call.before = copier(source, target, bytes);
  call.plan = [=](Transfer& transfer) {
    if (rank != root) {
      transfer.send(root, source, bytes);
    } else {
      reduce_from_all(transfer, rank, size, static_cast<char*>(target), static_cast<const char*>(source), bytes,
                      reduction);
    }
  };
  return launch(std::move(call), stream);
}

ACL_API int HcclReduceScatter(void* source, void* target, uint64_t count, int data_type, int operation, void* handle,
                              Stream stream) {
  Collective call;
  int code = prepare(Function::kReduceScatter, handle, count, data_type, operation, -1, &call);
  if (code != kOk || count == 0) return code;
  const uint64_t bytes = count * element_bytes(data_type);
  const uint32_t rank = call.communicator->rank;
  const uint32_t size = call.communicator->size;
  if ((code = use_buffer(&call, source, bytes * size, false)) != kOk) return code;
  if ((code = use_buffer(&call, target, bytes, true)) != kOk) return code;
  const auto* const from = static_cast<const char*>(source);
  const auto to = static_cast<char*>(target);
  const Reduction reduction = find_reduction(data_type, operation);
  if (size == 1) call.before = copier(source, target, bytes);
  // A result over a part that is still to be sent is put there at the end.
  const bool in_the_way = to != from + rank * bytes && overlap(from, bytes * size, to, bytes);
  const auto apart = std::make_shared<std::vector<char>>();
  call.plan = [=](Transfer& transfer) {
    if (in_the_way) apart->resize(bytes);
    for (uint32_t step = 1; step < size; ++step) {
      const uint32_t peer = (rank + step) % size;
      transfer.send(peer, from + peer * bytes, bytes);
    }
    reduce_from_all(transfer, rank, size, in_the_way ? apart->data() : to, from + rank * bytes, bytes, reduction);
  };
  if (in_the_way) call.after = [=] { std::memcpy(to, apart->data(), bytes); };
  return launch(std::move(call), stream);
}

ACL_API int HcclBroadcast(void* buffer, uint64_t count, int data_type, uint32_t root, void* handle, Stream stream) {
  Collective call;
  int code = prepare(Function::kBroadcast, handle, count, data_type, -1, static_cast<int>(root), &call);
  if (code != kOk || count == 0) return code;
  const uint64_t bytes = count * element_bytes(data_type);
  const uint32_t rank = call.communicator->rank;
  const uint32_t size = call.communicator->size;
  if ((code = use_buffer(&call, buffer, bytes, rank != root)) != kOk) return code;
  call.plan = [=](Transfer& transfer) {
    if (rank != root) {
      transfer.receive(root, buffer, bytes);
      return;
    }
    for (uint32_t peer = 0; peer < size; ++peer) {
      if (peer != root) transfer.send(peer, buffer, bytes);
    }
  };
  return launch(std::move(call), stream);
}

ACL_API int HcclScatter(void* source, void* target, uint64_t count, int data_type, uint32_t root, void* handle,
                        Stream stream) {
  Collective call;
  int code = prepare(Function::kScatter, handle, count, data_type, -1, static_cast<int>(root), &call);
  if (code != kOk || count == 0) return code;
  const uint64_t bytes = count * element_bytes(data_type);
  const uint32_t rank = call.communicator->rank;
  const uint32_t size = call.communicator->size;
  if (rank == root && (code = use_buffer(&call, source, bytes * size, false)) != kOk) return code;
  if ((code = use_buffer(&call, target, bytes, true)) != kOk) return code;
  const auto* const from = static_cast<const char*>(source);
  if (rank == root) call.before = copier(from + rank * bytes, target, bytes);
  call.plan = [=](Transfer& transfer) {
    if (rank != root) {
      transfer.receive(root, target, bytes);
      return;
    }
    for (uint32_t peer = 0; peer < size; ++peer) {
      if (peer != root) transfer.send(peer, from + peer * bytes, bytes);
    }
  };
  return launch(std::move(call), stream);
}

ACL_API int HcclAllGather(void* source, void* target, uint64_t count, int data_type, void* handle, Stream stream) {
  Collective call;
  int code = prepare(Function::kAllGather, handle, count, data_type, -1, -1, &call);
  if (code != kOk || count == 0) return code;
  const uint64_t bytes = count * element_bytes(data_type);
  const uint32_t rank = call.communicator->rank;
  const uint32_t size = call.communicator->size;
  if ((code = use_buffer(&call, source, bytes, false)) != kOk) return code;
  if ((code = use_buffer(&call, target, bytes * size, true)) != kOk) return code;
  const auto to = static_cast<char*>(target);
  call.before = copier(source, to + rank * bytes, bytes);
  call.plan = [=](Transfer& transfer) {
    for (uint32_t step = 1; step < size; ++step) {
      const uint32_t peer = (rank + step) % size;
      transfer.send(peer, to + rank * bytes, bytes);
      transfer.receive(peer, to + peer * bytes, bytes);
    }
  };
  return launch(std::move(call), stream);
}

ACL_API int HcclBarrier(void* handle, Stream stream) {
  constexpr int kInt8 = 0;
  Collective call;
  const int code = prepare(Function::kBarrier, handle, 0, kInt8, -1, -1, &call);
  if (code != kOk) return code;
  const uint32_t rank = call.communicator->rank;
  const uint32_t size = call.communicator->size;
  call.plan = [=](Transfer& transfer) {
    for (uint32_t step = 1; step < size; ++step) {
      transfer.send((rank + step) % size, nullptr, 0);
      transfer.receive((rank + step) % size, nullptr, 0);
    }
  };
  return launch(std::move(call), stream);
}

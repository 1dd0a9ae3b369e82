#include "launch.h"

namespace hostcann::hccl {
namespace {

void run(const Collective& collective) {
  const Communicator& communicator = *collective.communicator;
  const std::lock_guard lock(collective.communicator->order);
  if (collective.before) collective.before();
  Transfer transfer(*communicator.segment, communicator.rank, collective.envelope);
  collective.plan(transfer);
  if (trace_enabled()) trace_count(TraceKind::kHccl, function_name(collective.function), transfer.bytes_to_send());
  run_transfer(communicator, transfer);
  if (collective.after) collective.after();
}

}  // namespace

void run_transfer(const Communicator& communicator, Transfer& transfer) {
  try {
    transfer.run(communicator.timeout_seconds);
  } catch (const TransferError& error) {
    throw DeviceError(error.code == kTimeout ? kTaskTimeout : kTaskException,
                      "communicator " + communicator.name + ", rank " + std::to_string(communicator.rank) + ": " +
                          error.what());
  }
}

int launch(Collective collective, Stream stream) {
  const char* const name = function_name(collective.function);
  std::vector<Access> accesses;
  if (accesses_are_checked()) accesses = collective.accesses;
  aclError code = kSuccess;
  if (collective.communicator->size == 1) {
    if (trace_enabled()) trace_count(TraceKind::kHccl, name);
    auto before = collective.before ? std::move(collective.before) : [] {};
    code = launch_always(stream, name, std::move(before), accesses);
  } else {
    code = launch_deferred(stream, name, [collective = std::move(collective)] { run(collective); }, accesses);
  }
  return code == kSuccess ? kOk : kRuntime;
}

int prepare(Function function, void* handle, uint64_t count, int data_type, int operation, int root,
            Collective* collective) {
  constexpr uint64_t kMostElements = 0x7ffffffff;
  const char* const name = function_name(function);
  collective->function = function;
  collective->communicator = resolve(name, handle);
  if (collective->communicator == nullptr) return kBadParameter;
  const Communicator& communicator = *collective->communicator;
  if (communicator.segment && communicator.segment->failed()) {
    return refuse(kRemote, name, std::string("the communicator has failed: ") + communicator.segment->header().failure);
  }
  const int supported = check_support(function, data_type, operation);
  if (supported != kOk) return supported;
  if (count > kMostElements) return refuse(kBadParameter, name, "the count is above 0x7ffffffff");
  if (root >= 0 && static_cast<uint32_t>(root) >= communicator.size) {
    return refuse(kBadParameter, name, "rank " + std::to_string(root) + " is not in the communicator");
  }
  if (!collective->communicator->take_for(Use::kCollectives)) {
    return refuse(kNotSupported, name, "communicator " + communicator.name + " belongs to operators that communicate on"
                                       " their own, which share it with nothing else; use another process group");
  }
  Envelope& envelope = collective->envelope;
  envelope.function = static_cast<uint32_t>(function);
  envelope.data_type = data_type;
  envelope.operation = operation;
  envelope.root = root;
  envelope.count = count;
  return kOk;
}

int use_buffer(Collective* collective, const void* address, uint64_t bytes, bool write) {
  if (bytes == 0) return kOk;
  const char* const name = function_name(collective->function);
  if (address == nullptr) return refuse(kNullPointer, name, "null buffer");
  if (!is_device_memory(address, bytes)) return refuse(kBadParameter, name, "a buffer is not device memory");
  const size_t element = element_bytes(collective->envelope.data_type);
  if (collective->envelope.operation >= 0 && reinterpret_cast<uintptr_t>(address) % element != 0) {
    return refuse(kBadParameter, name, "a buffer is not aligned to " + std::to_string(element) + " bytes");
  }
  collective->accesses.push_back({address, bytes, write});
  return kOk;
}

}  // namespace hostcann::hccl

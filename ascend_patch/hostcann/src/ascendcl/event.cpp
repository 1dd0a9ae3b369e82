// Events and host callbacks.
#include <chrono>
#include <shared_mutex>
#include <thread>
#include <unordered_map>

#include "stream.h"

namespace hostcann {
namespace {

struct EventTable {
  std::shared_mutex mutex;
  std::unordered_map<EventObject*, std::unique_ptr<EventObject>> events;
};

EventTable& event_table() {
  static EventTable* const instance = new EventTable;  // torch-npu destroys events from its own static destructors
  return *instance;
}

double now_milliseconds() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

EventObject* resolve_event(const char* function, Event event) {
  EventTable& all = event_table();
  auto* const object = static_cast<EventObject*>(event);
  std::shared_lock lock(all.mutex);
  if (all.events.count(object) == 0) {
    fail(kRtParamInvalid, "%s: %p is not a live event", function, event);
    return nullptr;
  }
  return object;
}

std::shared_ptr<Recording> current_recording(EventObject* event) {
  std::lock_guard lock(event->mutex);
  return event->recording;
}

bool is_done(Recording* recording) {
  std::lock_guard lock(recording->mutex);
  return recording->done;
}

void finish(Recording* recording, StreamObject* stream) {
  {
    std::lock_guard lock(recording->mutex);
    recording->error = peek_error(stream, &recording->error_message);
    recording->done = true;
    recording->milliseconds = now_milliseconds();
  }
  recording->done_changed.notify_all();
}

bool wait_for(Recording* recording, int timeout_ms) {
  std::unique_lock lock(recording->mutex);
  const auto done = [recording] { return recording->done; };
  if (timeout_ms < 0) {
    recording->done_changed.wait(lock, done);
    return true;
  }
  return recording->done_changed.wait_for(lock, std::chrono::milliseconds(timeout_ms), done);
}

// A stream that waited for a failed one goes on with wrong data: it has failed too. The recording is done.
void pass_error(const Recording* recording, StreamObject* stream) {
  if (recording->error != kSuccess) set_error(stream, recording->error, recording->error_message);
}

}  // namespace
}  // namespace hostcann

using namespace hostcann;

// ---------------------------------------------------------------------------------------------------------------------
// Events

ACL_API aclError aclrtCreateEventExWithFlag(Event* event, uint32_t flags) {
  if (event == nullptr) return fail(kRtParamInvalid, "aclrtCreateEventExWithFlag: null pointer");
  auto created = std::make_unique<EventObject>();
  created->flags = flags;
  EventObject* const object = created.get();
  EventTable& all = event_table();
  std::unique_lock lock(all.mutex);
  all.events.emplace(object, std::move(created));
  *event = object;
  return kSuccess;
}

ACL_API aclError aclrtCreateEventWithFlag(Event* event, uint32_t flags) {
  return aclrtCreateEventExWithFlag(event, flags);
}

ACL_API aclError aclrtCreateEvent(Event* event) { return aclrtCreateEventExWithFlag(event, 0); }

ACL_API aclError aclrtDestroyEvent(Event event) {
  EventObject* const object = resolve_event("aclrtDestroyEvent", event);
  if (object == nullptr) return kRtParamInvalid;
  EventTable& all = event_table();
  std::unique_lock lock(all.mutex);
  all.events.erase(object);  // waiters hold the Recording, not the event
  return kSuccess;
}

ACL_API aclError aclrtRecordEvent(Event event, Stream stream) {
  EventObject* const object = resolve_event("aclrtRecordEvent", event);
  StreamObject* const on = resolve_stream("aclrtRecordEvent", stream);
  if (object == nullptr || on == nullptr) return kRtParamInvalid;
  auto recording = std::make_shared<Recording>();
  order_record(on, recording.get());
  {
    std::lock_guard lock(object->mutex);
    object->recording = recording;
  }
  return submit(on, "aclrtRecordEvent", [recording, on] { finish(recording.get(), on); }, Runner::kFirstIdle);
}

ACL_API aclError aclrtResetEvent(Event event, Stream stream) {
  EventObject* const object = resolve_event("aclrtResetEvent", event);
  StreamObject* const on = resolve_stream("aclrtResetEvent", stream);
  if (object == nullptr || on == nullptr) return kRtParamInvalid;
  return kSuccess;  // a record replaces the recording, so nothing is left to reset between uses
}

ACL_API aclError aclrtStreamWaitEvent(Stream stream, Event event) {
  EventObject* const object = resolve_event("aclrtStreamWaitEvent", event);
  StreamObject* const on = resolve_stream("aclrtStreamWaitEvent", stream);
  if (object == nullptr || on == nullptr) return kRtParamInvalid;
  std::shared_ptr<Recording> recording = current_recording(object);
  if (!recording) return kSuccess;  // never recorded: nothing to wait for
  order_wait(on, recording.get());
  if (!streams_are_deferred() && is_done(recording.get())) {
    pass_error(recording.get(), on);
    return kSuccess;
  }
  const auto wait = [recording, on] {
    wait_for(recording.get(), -1);
    pass_error(recording.get(), on);
  };
  return submit(on, "aclrtStreamWaitEvent", wait, Runner::kStream);
}

ACL_API aclError aclrtStreamWaitEventWithTimeout(Stream stream, Event event, int32_t /*timeout*/) {
  return aclrtStreamWaitEvent(stream, event);
}

ACL_API aclError aclrtSynchronizeEventWithTimeout(Event event, int32_t timeout_ms) {
  EventObject* const object = resolve_event("aclrtSynchronizeEvent", event);
  if (object == nullptr) return kRtParamInvalid;
  if (trace_enabled()) trace_count(TraceKind::kSync, "aclrtSynchronizeEvent");
  const std::shared_ptr<Recording> recording = current_recording(object);
  if (!recording) return kSuccess;
  if (!wait_for(recording.get(), timeout_ms)) {
    return fail(kRtWaitTimeout, "aclrtSynchronizeEvent: not reached after %d ms", timeout_ms);
  }
  order_host_saw(recording.get());
  if (recording->error != kSuccess) return fail(recording->error, "%s", recording->error_message.c_str());
  return kSuccess;
}

ACL_API aclError aclrtSynchronizeEvent(Event event) { return aclrtSynchronizeEventWithTimeout(event, -1); }

ACL_API aclError aclrtQueryEventStatus(Event event, int* status) {
  EventObject* const object = resolve_event("aclrtQueryEventStatus", event);
  if (object == nullptr) return kRtParamInvalid;
  constexpr int kNotReady = 0;
  constexpr int kComplete = 1;
  const std::shared_ptr<Recording> recording = current_recording(object);
  *status = !recording || is_done(recording.get()) ? kComplete : kNotReady;
  if (recording && *status == kComplete) order_host_saw(recording.get());
  return kSuccess;
}

ACL_API aclError aclrtQueryEventWaitStatus(Event event, int* status) {
  constexpr int kComplete = 0;
  constexpr int kNotReady = 1;
  int recorded = 0;
  const aclError code = aclrtQueryEventStatus(event, &recorded);
  *status = recorded == 1 ? kComplete : kNotReady;
  return code;
}

ACL_API aclError aclrtEventElapsedTime(float* milliseconds, Event start, Event end) {
  EventObject* const first = resolve_event("aclrtEventElapsedTime", start);
  EventObject* const second = resolve_event("aclrtEventElapsedTime", end);
  if (first == nullptr || second == nullptr) return kRtParamInvalid;
  const std::shared_ptr<Recording> from = current_recording(first);
  const std::shared_ptr<Recording> to = current_recording(second);
  if (!from || !to || !is_done(from.get()) || !is_done(to.get())) {
    return fail(kRtEventTimestampInvalid, "aclrtEventElapsedTime: both events must be recorded and reached");
  }
  *milliseconds = static_cast<float>(to->milliseconds - from->milliseconds);
  return kSuccess;
}

ACL_API aclError aclrtEventGetTimestamp(Event event, uint64_t* microseconds) {
  EventObject* const object = resolve_event("aclrtEventGetTimestamp", event);
  if (object == nullptr) return kRtParamInvalid;
  const std::shared_ptr<Recording> recording = current_recording(object);
  if (!recording || !is_done(recording.get())) {
    return fail(kRtEventTimestampInvalid, "aclrtEventGetTimestamp: the event is not recorded or not reached");
  }
  *microseconds = static_cast<uint64_t>(recording->milliseconds * 1000.0);
  return kSuccess;
}

// ---------------------------------------------------------------------------------------------------------------------
// Host callbacks

ACL_API aclError aclrtLaunchCallback(void (*function)(void*), void* data, int block, Stream stream) {
  if (function == nullptr) return fail(kRtParamInvalid, "aclrtLaunchCallback: null callback");
  StreamObject* const on = resolve_stream("aclrtLaunchCallback", stream);
  if (on == nullptr) return kRtParamInvalid;
  static_cast<void>(block);  // a stream here always waits for its callback, which satisfies both kinds
  return submit(on, "aclrtLaunchCallback", [function, data] { function(data); }, Runner::kFirstIdle);
}

ACL_API aclError aclrtLaunchHostFunc(Stream stream, void (*function)(void*), void* data) {
  return aclrtLaunchCallback(function, data, 1, stream);
}

// Callbacks run on the stream itself, so subscribing a thread only needs a valid stream.
ACL_API aclError aclrtSubscribeReport(uint64_t /*thread*/, Stream stream) {
  return resolve_stream("aclrtSubscribeReport", stream) != nullptr ? kSuccess : kRtParamInvalid;
}

ACL_API aclError aclrtUnSubscribeReport(uint64_t /*thread*/, Stream stream) {
  return resolve_stream("aclrtUnSubscribeReport", stream) != nullptr ? kSuccess : kRtParamInvalid;
}

ACL_API aclError aclrtProcessReport(int32_t timeout_ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(timeout_ms > 0 ? timeout_ms : 100));
  return kRtWaitTimeout;  // as documented when no callback arrives in time; not an error worth a message
}

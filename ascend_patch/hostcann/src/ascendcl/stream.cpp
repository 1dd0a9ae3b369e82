#include "stream.h"

#include <chrono>
#include <cstdio>
#include <deque>
#include <exception>
#include <shared_mutex>
#include <thread>
#include <unordered_map>

namespace hostcann {
namespace {

std::atomic<int> busy_streams{0};
std::atomic<int> failed_streams{0};  // with an error that was not reported yet

}  // namespace

// The thread of a stream with deferred tasks.
class Worker {
 public:
  explicit Worker(StreamObject* stream) : stream_(stream), thread_([this] { run(); }) {}

  ~Worker() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void push(const char* name, std::function<void()> work) {
    {
      std::lock_guard lock(mutex_);
      if (tasks_.empty() && !busy_) ++busy_streams;
      tasks_.push_back({name, std::move(work)});
    }
    changed_.notify_all();
  }

  bool idle() {
    std::lock_guard lock(mutex_);
    return tasks_.empty() && !busy_;
  }

  bool is_current_thread() const { return thread_.get_id() == std::this_thread::get_id(); }

  // False if it took longer than `timeout_ms` (negative: no limit).
  bool wait(int timeout_ms) {
    std::unique_lock lock(mutex_);
    const auto finished = [this] { return tasks_.empty() && !busy_; };
    if (timeout_ms < 0) {
      drained_.wait(lock, finished);
      return true;
    }
    return drained_.wait_for(lock, std::chrono::milliseconds(timeout_ms), finished);
  }

 private:
  struct Task {
    const char* name;
    std::function<void()> work;
  };

  void run();

  StreamObject* stream_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable drained_;
  std::deque<Task> tasks_;
  bool busy_ = false;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses everything above
};

StreamObject::StreamObject() = default;
StreamObject::~StreamObject() = default;

namespace {

// Runs a task and turns an exception into a message; kSuccess if there was none.
aclError run_task(const char* name, const std::function<void()>& work, std::string* message) {
  try {
    work();
    return kSuccess;
  } catch (const DeviceError& error) {
    *message = std::string(name) + ": " + error.what();
    return error.code;
  } catch (const std::exception& error) {
    *message = std::string(name) + ": " + error.what();
  } catch (...) {
    *message = std::string(name) + ": unknown exception";
  }
  return kInternalError;
}

struct StreamTable {
  std::shared_mutex mutex;
  std::unordered_map<StreamObject*, std::unique_ptr<StreamObject>> streams;
  std::unordered_map<int, StreamObject*> defaults;
  int next_id = 1;  // 0 is the host in vector clocks
};

StreamTable& table() {
  static StreamTable* const instance = new StreamTable;  // threads may still run while static destructors do
  return *instance;
}

StreamObject* create_stream(int device, uint32_t priority, uint32_t flags) {
  auto stream = std::make_unique<StreamObject>();
  StreamObject* const object = stream.get();
  object->device = device;
  object->priority = priority;
  object->flags = flags;
  StreamTable& all = table();
  std::unique_lock lock(all.mutex);
  object->id = all.next_id++;
  all.streams.emplace(object, std::move(stream));
  return object;
}

StreamObject* default_stream_object(int device) {
  StreamTable& all = table();
  {
    std::shared_lock lock(all.mutex);
    const auto found = all.defaults.find(device);
    if (found != all.defaults.end()) return found->second;
  }
  StreamObject* const created = create_stream(device, 0, 0);
  std::unique_lock lock(all.mutex);
  const auto [entry, inserted] = all.defaults.emplace(device, created);
  created->is_default = true;
  if (!inserted) all.streams.erase(created);
  return entry->second;
}

}  // namespace

void Worker::run() {
  set_thread_device(stream_->device);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    busy_ = true;
    lock.unlock();
    std::string message;
    const aclError code = run_task(task.name, task.work, &message);
    task.work = nullptr;  // releases what the closure owns before anyone sees the stream as idle
    if (code != kSuccess) set_error(stream_, code, message);
    lock.lock();
    busy_ = false;
    if (!tasks_.empty()) continue;
    --busy_streams;
    drained_.notify_all();
  }
}

StreamObject* resolve_stream(const char* function, Stream stream) {
  if (stream == nullptr) {
    const int device = current_device();
    if (device < 0) {
      fail(kRtContextNull, "%s: no device is set on this thread", function);
      return nullptr;
    }
    return default_stream_object(device);
  }
  StreamTable& all = table();
  auto* const object = static_cast<StreamObject*>(stream);
  std::shared_lock lock(all.mutex);
  if (all.streams.count(object) == 0) {
    fail(kRtParamInvalid, "%s: %p is not a live stream", function, stream);
    return nullptr;
  }
  return object;
}

void set_error(StreamObject* stream, aclError code, const std::string& message) {
  std::lock_guard lock(stream->error_mutex);
  if (stream->error != kSuccess) return;
  ++failed_streams;
  stream->error = code;
  stream->error_message = message;
}

aclError peek_error(StreamObject* stream, std::string* message) {
  std::lock_guard lock(stream->error_mutex);
  *message = stream->error_message;
  return stream->error;
}

namespace {

aclError take_error(StreamObject* stream) {
  std::lock_guard lock(stream->error_mutex);
  if (stream->error == kSuccess) return kSuccess;
  --failed_streams;
  const aclError code = stream->error;
  stream->error = kSuccess;
  fail(code, "%s", stream->error_message.c_str());
  stream->error_message.clear();
  return code;
}

bool has_pending_tasks(StreamObject* stream) {
  return busy_streams.load(std::memory_order_acquire) != 0 && stream->worker && !stream->worker->idle();
}

// Waits for the tasks of a stream and takes its error, without an edge for the check mode.
aclError settle(StreamObject* stream) {
  if (has_pending_tasks(stream) && !stream->worker->is_current_thread()) stream->worker->wait(-1);
  return take_error(stream);
}

}  // namespace

bool work_is_pending() {
  return busy_streams.load(std::memory_order_acquire) != 0 || failed_streams.load(std::memory_order_acquire) != 0;
}

aclError submit(StreamObject* stream, const char* name, std::function<void()> work, Runner runner) {
  const bool deferred = streams_are_deferred() || runner == Runner::kStream ||
                        (runner == Runner::kFirstIdle && has_pending_tasks(stream));
  if (!deferred) {
    if (runner == Runner::kCaller && work_is_pending()) {
      const aclError pending = settle(stream);
      if (pending != kSuccess) return pending;
    }
    std::string message;
    const aclError code = run_task(name, work, &message);
    return code == kSuccess ? kSuccess : fail(code, "%s", message.c_str());
  }
  {
    std::lock_guard lock(stream->error_mutex);
    if (!stream->worker) stream->worker = std::make_unique<Worker>(stream);
  }
  stream->worker->push(name, std::move(work));
  return kSuccess;
}

namespace {

aclError drain_with_timeout(StreamObject* stream, int timeout_ms) {
  if (stream->worker && !stream->worker->is_current_thread()) {
    if (!stream->worker->wait(timeout_ms)) {
      return fail(kRtWaitTimeout, "stream %d is not finished after %d ms", stream->id, timeout_ms);
    }
  }
  order_host_saw_stream(stream);
  return take_error(stream);
}

}  // namespace

aclError drain(StreamObject* stream) { return drain_with_timeout(stream, -1); }

void for_each_stream(int device, const std::function<void(StreamObject*)>& visit) {
  std::vector<StreamObject*> found;
  {
    StreamTable& all = table();
    std::shared_lock lock(all.mutex);
    for (const auto& entry : all.streams) {
      if (device < 0 || entry.first->device == device) found.push_back(entry.first);
    }
  }
  for (StreamObject* stream : found) visit(stream);
}

void drain_device(int device) {
  if (!work_is_pending()) return;
  for_each_stream(device, [](StreamObject* stream) {
    if (stream->worker && !stream->worker->is_current_thread()) stream->worker->wait(-1);
  });
}

Stream default_stream(int device) { return default_stream_object(device); }

namespace {

aclError check_and_submit(Stream stream, const char* name, std::function<void()> work,
                          const std::vector<Access>& accesses, Runner runner) {
  StreamObject* const object = resolve_stream(name, stream);
  if (object == nullptr) return kRtParamInvalid;
  if (accesses_are_checked()) {
    const aclError code = check_accesses(object, name, accesses);
    if (code != kSuccess) return code;
  }
  return submit(object, name, std::move(work), runner);
}

}  // namespace

aclError launch_always(Stream stream, const char* name, std::function<void()> work,
                       const std::vector<Access>& accesses) {
  return check_and_submit(stream, name, std::move(work), accesses, Runner::kCaller);
}

aclError launch_deferred(Stream stream, const char* name, std::function<void()> work,
                         const std::vector<Access>& accesses) {
  return check_and_submit(stream, name, std::move(work), accesses, Runner::kStream);
}

aclError launch(Stream stream, const char* name, std::function<void()> work, const std::vector<Access>& accesses) {
  if (trace_enabled()) {
    size_t bytes = 0;
    for (const Access& access : accesses) bytes += access.bytes;
    trace_count(TraceKind::kAclnn, name, bytes);
  }
  if (!compute_enabled()) return kSuccess;
  return launch_always(stream, name, std::move(work), accesses);
}

aclError settle(Stream stream) {
  StreamObject* const object = resolve_stream("settle", stream);
  return object == nullptr ? kRtParamInvalid : settle(object);
}

aclError synchronize(Stream stream) {
  StreamObject* const object = resolve_stream("synchronize", stream);
  if (object == nullptr) return kRtParamInvalid;
  if (trace_enabled()) trace_count(TraceKind::kSync, "stream");
  return drain(object);
}

}  // namespace hostcann

using namespace hostcann;

// ---------------------------------------------------------------------------------------------------------------------
// Streams

ACL_API aclError aclrtCreateStreamWithConfig(Stream* stream, uint32_t priority, uint32_t flags) {
  constexpr uint32_t kLowestPriority = 7;
  if (stream == nullptr) return fail(kRtParamInvalid, "aclrtCreateStreamWithConfig: null pointer");
  if (priority > kLowestPriority) {
    return fail(kRtParamInvalid, "aclrtCreateStreamWithConfig: priority %u is not in 0..7", priority);
  }
  const int device = current_device();
  if (device < 0) return fail(kRtContextNull, "aclrtCreateStreamWithConfig: no device is set on this thread");
  *stream = create_stream(device, priority, flags);
  return kSuccess;
}

ACL_API aclError aclrtCreateStream(Stream* stream) { return aclrtCreateStreamWithConfig(stream, 0, 0); }

ACL_API aclError aclrtDestroyStream(Stream stream) {
  StreamObject* const object = stream == nullptr ? nullptr : resolve_stream("aclrtDestroyStream", stream);
  if (object == nullptr || object->is_default) {
    return fail(kRtParamInvalid, "aclrtDestroyStream: the default stream cannot be destroyed");
  }
  const aclError code = drain(object);
  StreamTable& all = table();
  std::unique_ptr<StreamObject> owned;
  {
    std::unique_lock lock(all.mutex);
    const auto found = all.streams.find(object);
    if (found == all.streams.end()) return code;
    owned = std::move(found->second);
    all.streams.erase(found);
  }
  return code;
}

ACL_API aclError aclrtDestroyStreamForce(Stream stream) { return aclrtDestroyStream(stream); }

ACL_API aclError aclrtSynchronizeStreamWithTimeout(Stream stream, int32_t timeout_ms) {
  StreamObject* const object = resolve_stream("aclrtSynchronizeStream", stream);
  if (object == nullptr) return kRtParamInvalid;
  if (trace_enabled()) trace_count(TraceKind::kSync, "aclrtSynchronizeStream");
  return drain_with_timeout(object, timeout_ms);
}

ACL_API aclError aclrtSynchronizeStream(Stream stream) { return aclrtSynchronizeStreamWithTimeout(stream, -1); }

ACL_API aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout_ms) {
  const int device = current_device();
  if (device < 0) return fail(kRtContextNull, "aclrtSynchronizeDevice: no device is set on this thread");
  if (trace_enabled()) trace_count(TraceKind::kSync, "aclrtSynchronizeDevice");
  aclError result = kSuccess;
  for_each_stream(device, [&](StreamObject* stream) {
    const aclError code = drain_with_timeout(stream, timeout_ms);
    if (result == kSuccess) result = code;
  });
  return result;
}

ACL_API aclError aclrtSynchronizeDevice() { return aclrtSynchronizeDeviceWithTimeout(-1); }

ACL_API aclError aclrtStreamQuery(Stream stream, int* status) {
  StreamObject* const object = resolve_stream("aclrtStreamQuery", stream);
  if (object == nullptr) return kRtParamInvalid;
  constexpr int kComplete = 0;
  constexpr int kNotReady = 1;
  *status = object->worker && !object->worker->idle() ? kNotReady : kComplete;
  if (*status == kComplete) order_host_saw_stream(object);
  return kSuccess;
}

ACL_API aclError aclrtStreamGetId(Stream stream, int32_t* id) {
  StreamObject* const object = resolve_stream("aclrtStreamGetId", stream);
  if (object == nullptr) return kRtParamInvalid;
  *id = object->id;
  return kSuccess;
}

ACL_API aclError aclrtSetStreamFailureMode(Stream stream, uint64_t mode) {
  StreamObject* const object = resolve_stream("aclrtSetStreamFailureMode", stream);
  if (object == nullptr) return kRtParamInvalid;
  object->failure_mode = static_cast<int>(mode);
  return kSuccess;
}

ACL_API aclError aclrtSetStreamOverflowSwitch(Stream stream, uint32_t flag) {
  StreamObject* const object = resolve_stream("aclrtSetStreamOverflowSwitch", stream);
  if (object == nullptr) return kRtParamInvalid;
  object->overflow_switch = flag;
  return kSuccess;
}

ACL_API aclError aclrtGetStreamOverflowSwitch(Stream stream, uint32_t* flag) {
  StreamObject* const object = resolve_stream("aclrtGetStreamOverflowSwitch", stream);
  if (object == nullptr) return kRtParamInvalid;
  *flag = object->overflow_switch;
  return kSuccess;
}

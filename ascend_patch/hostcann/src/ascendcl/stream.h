// Streams and events, as seen inside libascendcl.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "order.h"

namespace hostcann {

class Worker;

struct StreamObject {
  int device = 0;
  int id = 0;
  uint32_t priority = 0;
  uint32_t flags = 0;
  int failure_mode = 0;
  uint32_t overflow_switch = 0;
  bool is_default = false;
  Clock clock;                     // check mode
  std::unique_ptr<Worker> worker;  // started with the first deferred task
  std::mutex error_mutex;
  aclError error = kSuccess;       // of a deferred task; reported once, at the next synchronisation
  std::string error_message;

  StreamObject();
  ~StreamObject();
};

// One aclrtRecordEvent: what waiters wait for. A later record of the same event makes a new one.
struct Recording {
  std::mutex mutex;
  std::condition_variable done_changed;
  bool done = false;
  double milliseconds = 0;  // when the stream reached the event
  Clock clock;              // check mode
  aclError error = kSuccess;  // of the stream when it reached the event: whoever waits for it fails as well
  std::string error_message;
};

struct EventObject {
  uint32_t flags = 0;
  std::mutex mutex;
  std::shared_ptr<Recording> recording;  // null: never recorded, or reset
};

// The object behind a handle (nullptr: default stream of the current device); null with a recorded error if invalid.
// Sets the device of the calling thread without the checks of aclrtSetDevice.
void set_thread_device(int device);

StreamObject* resolve_stream(const char* function, Stream stream);

// Who runs a task outside concurrent mode (in concurrent mode it is always the stream's thread).
enum class Runner {
  kCaller,      // the calling thread, after it has waited for what is pending on the stream
  kFirstIdle,   // the calling thread if nothing is pending, else the stream's thread: the caller never waits
  kStream,      // the stream's thread
};

// Runs a task in stream order without null mode, checks or tracing.
aclError submit(StreamObject* stream, const char* name, std::function<void()> work, Runner runner);

// Sets the error that the next synchronisation of the stream reports, unless it has one already.
void set_error(StreamObject* stream, aclError code, const std::string& message);

// The stream's error, left in place.
aclError peek_error(StreamObject* stream, std::string* message);

// Waits for all tasks of a stream; returns and clears the error of a failed deferred task.
aclError drain(StreamObject* stream);

// Calls `visit` with every live stream of a device (all devices when -1).
void for_each_stream(int device, const std::function<void(StreamObject*)>& visit);

}  // namespace hostcann

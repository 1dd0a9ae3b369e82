// Puts a kernel launch into torch-npu's task queue. It includes nothing of torch or CANN, so that it compiles in a second
// on any machine: the two functions it calls are handed over as addresses by the Python side, which looks them up by name.
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using RunOpApi = void (*)(const std::string& name, const std::function<int()>& task, bool synchronous);
using LaunchKernel = int (*)(void* function, std::uint32_t blocks, void* stream, void* config, void* arguments,
                             std::size_t bytes, void* placeholders, std::size_t placeholder_count);

RunOpApi run_op_api;
LaunchKernel launch_kernel;

thread_local std::string message;

}  // namespace

EXPORT void ascend_patch_setup(void* run, void* launch) {
  run_op_api = reinterpret_cast<RunOpApi>(run);
  launch_kernel = reinterpret_cast<LaunchKernel>(launch);
}

// Why the last launch of this thread failed.
EXPORT const char* ascend_patch_message() { return message.c_str(); }

// 1 if torch-npu raised: for this launch when it ran at once, or for an earlier operator in its queue. What fails later in
// the queue is raised by torch-npu at its next operator or synchronisation.
EXPORT int ascend_patch_launch(void* function, std::uint32_t blocks, void* stream, const char* arguments,
                               std::size_t bytes, const char* name) {
  try {
    std::vector<char> copy(arguments, arguments + bytes);
    run_op_api(
        name,
        [=]() mutable {
          return launch_kernel(function, blocks, stream, nullptr, copy.data(), copy.size(), nullptr, 0);
        },
        false);
    return 0;
  } catch (const std::exception& error) {
    message = error.what();
    return 1;
  }
}

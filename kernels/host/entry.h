// The launch function of a kernel entry; see environment.h for how it is built and called.
#pragma once

#include <tuple>

#include "kernel_operator.h"

namespace ascendc_host {

// Parameters of an entry, read from the flat argument buffer.
template <typename... Parameters>
struct Arguments {
    static constexpr size_t Align(size_t offset, size_t alignment) {
        alignment = alignment < 4 ? 4 : alignment;
        return (offset + alignment - 1) / alignment * alignment;
    }

    static constexpr size_t Size() {
        size_t offset = 0;
        ((offset = Align(offset, alignof(Parameters)) + sizeof(Parameters)), ...);
        return offset;
    }

    template <typename T>
    static T Next(const uint8_t* buffer, size_t& offset) {
        static_assert(std::is_pointer_v<T> || ((sizeof(T) == 4 || sizeof(T) == 8) && std::is_arithmetic_v<T>),
                      "kernel parameters are pointers and scalars of 4 or 8 bytes");
        offset = Align(offset, alignof(T));
        T value;
        std::memcpy(&value, buffer + offset, sizeof(T));
        offset += sizeof(T);
        return value;
    }

    // A braced list evaluates its elements in order.
    static std::tuple<Parameters...> Read(const void* buffer) {
        size_t offset = 0;
        return std::tuple<Parameters...>{Next<Parameters>(static_cast<const uint8_t*>(buffer), offset)...};
    }
};

template <auto entry>
struct Entry;

template <typename... Parameters, void (*entry)(Parameters...)>
struct Entry<entry> {
    static constexpr size_t kSize = Arguments<Parameters...>::Size();
    static void Call(const void* buffer) { std::apply(entry, Arguments<Parameters...>::Read(buffer)); }
};

template <auto entry>
int LaunchEntry(uint32_t blocks, const void* arguments, size_t size, const ascendc_host_environment* environment,
                char* message, size_t capacity) noexcept {
    auto refuse = [&](int kind, const char* text) {
        if (message != nullptr && capacity != 0) std::snprintf(message, capacity, "%s", text);
        return kind;
    };
    if (blocks == 0 || blocks > 65535) return refuse(ASCENDC_HOST_ARGUMENTS, "a launch has 1 to 65535 blocks");
    if (environment != nullptr && environment->size < offsetof(ascendc_host_environment, counters)) {
        return refuse(ASCENDC_HOST_ARGUMENTS, "the environment is of an older ABI; rebuild the launcher");
    }
    // The launcher may round the buffer up to the 8 bytes of a pointer.
    if (size < Entry<entry>::kSize || size > (Entry<entry>::kSize + 7) / 8 * 8) {
        char text[160];
        std::snprintf(text, sizeof(text), "the kernel takes %zu bytes of arguments, the launch has %zu; "
                      "the declared parameters differ from the source", Entry<entry>::kSize, size);
        return refuse(ASCENDC_HOST_ARGUMENTS, text);
    }
    try {
        Launch launch(&Entry<entry>::Call, arguments, blocks, environment);
        launch.finish_ = &CheckFinished;
        launch.Run();
    } catch (const Fault& fault) {
        return refuse(fault.kind, fault.text);
    } catch (const std::exception& error) {
        return refuse(ASCENDC_HOST_ARGUMENTS, error.what());
    }
    return ASCENDC_HOST_SUCCESS;
}

}  // namespace ascendc_host

extern "C" __attribute__((weak, visibility("default"))) uint32_t ascendc_host_abi(void) { return ASCENDC_HOST_ABI; }

#define ASCENDC_HOST_ENTRY(entry)                                                                                  \
    extern "C" __attribute__((visibility("default"))) int entry##__ascendc_host_launch(                            \
        uint32_t blocks, const void* arguments, size_t size, const ascendc_host_environment* environment,          \
        char* message, size_t capacity) {                                                                          \
        return ::ascendc_host::LaunchEntry<&entry>(blocks, arguments, size, environment, message, capacity);       \
    }

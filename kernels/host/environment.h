/* What a host build of a kernel expects from whoever launches it. Plain C, so that a launcher can be C or C++.
 *
 * A host build of one kernel is a shared object made from a generated translation unit:
 *
 *     #include "<name>.cpp"            the kernel, unchanged; it includes "kernel_operator.h"
 *     #include "entry.h"
 *     ASCENDC_HOST_ENTRY(<entry>)      one line for every extern "C" __global__ function
 *
 * compiled with g++ >= 12 or clang++ >= 15 as
 *
 *     g++ -std=c++17 -O3 -fPIC -shared -ffp-contract=off -fno-math-errno -fno-trapping-math -fwrapv \
 *         -fvisibility=hidden -I kernels/host -I <folder of the kernel> -o <name>.so <unit>.cpp
 *
 * -march=native may be added (float16 conversions become instructions). Never add -ffast-math: kernels rely on
 * infinities and NaN. -fvisibility=hidden keeps two libraries built from different headers apart in one process.
 */
#ifndef ASCENDC_HOST_ENVIRONMENT_H
#define ASCENDC_HOST_ENVIRONMENT_H

#include <stddef.h>
#include <stdint.h>

/* Raised whenever the launch function, the environment or the argument layout changes, except for what is added at the
 * end of the environment: its size tells. */
#define ASCENDC_HOST_ABI 1u

#ifdef __cplusplus
extern "C" {
#endif

/* What a launch did, all blocks together. A launch adds to what is there. */
typedef struct {
    uint64_t copied_in;           /* bytes that DataCopy and DataCopyPad read from global memory, without padding */
    uint64_t copied_out;          /* bytes that they wrote to global memory */
    uint64_t scalar;              /* bytes of GlobalTensor::GetValue and SetValue */
    /* Repeats: one for every 256 bytes of an instruction's widest operand, or its repeatTime. What a reduction to one
     * value does with its partial results is not counted: the documentation leaves it open. */
    uint64_t vector_instructions;
} ascendc_host_counters;

typedef struct {
    uint32_t size; /* of this struct */
    void* context;
    /* Device allocation that holds `address`: returns 1 and its begin and size in bytes, or 0.
     * A null function switches the check against allocations off. */
    int (*allocation)(void* context, const void* address, const void** begin, size_t* bytes);
    uint32_t checks; /* 0: bounds, alignment, queues, flags (fast); 1: also races and uninitialised memory */
    ascendc_host_counters* counters; /* or null. Older launchers end before it. */
    /* Told of every access to global memory, or null. Older launchers end before it. */
    void (*access)(void* context, const void* address, size_t bytes, int write);
} ascendc_host_environment;

/* What the launch function returns. Zero is success; otherwise `message` holds one line. */
enum ascendc_host_fault {
    ASCENDC_HOST_SUCCESS = 0,
    ASCENDC_HOST_ARGUMENTS = 1,     /* the launch itself: argument buffer, number of blocks */
    ASCENDC_HOST_UB_BOUNDS = 2,     /* outside a LocalTensor */
    ASCENDC_HOST_GM_BOUNDS = 3,     /* outside a GlobalTensor or outside device memory */
    ASCENDC_HOST_ALIGNMENT = 4,     /* misaligned start address */
    ASCENDC_HOST_LENGTH = 5,        /* length, stride, mask or repeat count that the instruction cannot do */
    ASCENDC_HOST_UNALLOCATED = 6,   /* LocalTensor without memory, freed, or handed to a queue */
    ASCENDC_HOST_QUEUE = 7,         /* queue misuse; most of it would hang the device */
    ASCENDC_HOST_FLAG = 8,          /* WaitFlag without SetFlag or the reverse; would hang the device */
    ASCENDC_HOST_RACE = 9,          /* two pipes (or two cores) on the same bytes without an order */
    ASCENDC_HOST_UNINITIALISED = 10, /* memory that nothing has written */
    ASCENDC_HOST_CAPACITY = 11,     /* more unified buffer than a core has */
    ASCENDC_HOST_OVERLAP = 12,      /* operands of one instruction overlap in part */
    ASCENDC_HOST_VALUE = 13,        /* argument value outside the documented range */
    ASCENDC_HOST_BLOCKS = 14        /* blocks disagree about SyncAll */
};

/* `<entry>__ascendc_host_launch` has this type. `arguments` is the flat buffer of the launch ABI: every parameter
 * aligned to the larger of its own alignment and 4 bytes, in order. */
typedef int (*ascendc_host_launch)(uint32_t blocks, const void* arguments, size_t size,
                                   const ascendc_host_environment* environment, char* message, size_t capacity);

/* Exported once by every host build: ASCENDC_HOST_ABI as it was at build time. */
uint32_t ascendc_host_abi(void);

#ifdef __cplusplus
}
#endif

#endif

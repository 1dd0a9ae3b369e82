// One entry per group of instructions: loads its operands, runs one instruction picked by number, stores the result.
#include "kernel_operator.h"

using namespace AscendC;

namespace {

constexpr uint32_t kBytes = 16384;

// Up to three inputs and one output in buffers of their own, ordered by hand.
class Bench {
public:
    Bench() {
        for (auto& buffer : inputs_) pipe_.InitBuffer(buffer, kBytes);
        pipe_.InitBuffer(output_, kBytes);
        pipe_.InitBuffer(work_, kBytes);
    }

    template <typename T>
    LocalTensor<T> Load(int index, GM_ADDR address, uint32_t elements) {
        GlobalTensor<T> global;
        global.SetGlobalBuffer((__gm__ T*)address, elements);
        LocalTensor<T> local = inputs_[index].Get<T>();
        DataCopyPad(local, global, {1, (uint32_t)(elements * sizeof(T)), 0, 0, 0}, {false, 0, 0, T{}});
        SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
        WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
        return local;
    }

    template <typename T>
    LocalTensor<T> Output() {
        return output_.Get<T>();
    }
    template <typename T>
    LocalTensor<T> Work() {
        return work_.Get<T>();
    }

    template <typename T>
    void Store(GM_ADDR address, uint32_t elements) {
        GlobalTensor<T> global;
        global.SetGlobalBuffer((__gm__ T*)address, elements);
        SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
        WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
        DataCopyPad(global, output_.Get<T>(), {1, (uint32_t)(elements * sizeof(T)), 0, 0, 0});
    }

private:
    TPipe pipe_;
    TBuf<TPosition::VECCALC> inputs_[3], output_, work_;
};

template <typename T>
void Arithmetic(GM_ADDR a, GM_ADDR b, GM_ADDR out, int32_t n, int32_t op, T scalar) {
    Bench bench;
    auto x = bench.Load<T>(0, a, n), y = bench.Load<T>(1, b, n), z = bench.Output<T>();
    constexpr bool floating = ascendc_host::kOneOf<T, half, float>;
    constexpr bool arithmetic = floating || ascendc_host::kOneOf<T, int16_t, int32_t>;
    if constexpr (arithmetic) {
        if (op == 0) Add(z, x, y, n);
        if (op == 1) Sub(z, x, y, n);
        if (op == 2) Mul(z, x, y, n);
        if (op == 3) Max(z, x, y, n);
        if (op == 4) Min(z, x, y, n);
        if (op == 5) Adds(z, x, scalar, n);
        if (op == 6) Muls(z, x, scalar, n);
        if (op == 7) Maxs(z, x, scalar, n);
        if (op == 8) Mins(z, x, scalar, n);
    }
    if constexpr (floating) {
        if (op == 10) Div(z, x, y, n);
        if (op == 11) Exp(z, x, n);
        if (op == 12) Ln(z, x, n);
        if (op == 13) Abs(z, x, n);
        if (op == 14) Sqrt(z, x, n);
        if (op == 15) Rsqrt(z, x, n);
        if (op == 16) Reciprocal(z, x, n);
        if (op == 17) Relu(z, x, n);
        if (op == 18) LeakyRelu(z, x, scalar, n);
        if (op == 19 || op == 20) DataCopy(z, y, (n + 15) / 16 * 16);
        if (op == 19) Axpy(z, x, scalar, n);
        if (op == 20) MulAddDst(z, x, y, n);
    }
    if constexpr (ascendc_host::kOneOf<T, int16_t, uint16_t>) {
        if (op == 30) And(z, x, y, n);
        if (op == 31) Or(z, x, y, n);
        if (op == 32) Not(z, x, n);
    }
    if constexpr (!floating) {
        if (op == 33) ShiftLeft(z, x, scalar, n);
        if (op == 34) ShiftRight(z, x, scalar, n);
    }
    bench.Store<T>(out, n);
}

// Repeats of three rows that lie two blocks apart, of which the mask takes a part; the other operand is repeated.
template <typename T>
void Repeats(GM_ADDR a, GM_ADDR b, GM_ADDR out, int32_t mask, int32_t op) {
    Bench bench;
    constexpr uint32_t kElements = 3 * 320 / sizeof(T);
    auto x = bench.Load<T>(0, a, kElements), y = bench.Load<T>(1, b, kElements), z = bench.Output<T>();
    Duplicate(z, T(0), (int32_t)kElements);
    uint64_t odd[2] = {0xAAAAAAAAAAAAAAAA, 0xAAAAAAAAAAAAAAAA};
    if (op == 0) Add(z, x, y, (uint64_t)mask, 3, {1, 1, 1, 10, 10, 0});
    if (op == 1) Add(z, x, y, odd, 3, {1, 1, 1, 10, 10, 0});
    if (op == 2) Muls(z, x, T(3), (uint64_t)mask, 3, {1, 1, 10, 10});
    if (op == 3) WholeReduceSum(z, x, mask, 3, 1, 1, 10);
    if (op == 4) WholeReduceMax(z, x, mask, 3, 1, 1, 10);
    if (op == 5) WholeReduceMin(z, x, mask, 3, 1, 1, 10, ReduceOrder::ORDER_ONLY_VALUE);
    if (op == 6) BlockReduceSum(z, x, 3, mask, 1, 1, 10);
    if (op == 7) BlockReduceMax(z, x, 3, mask, 1, 1, 10);
    if (op == 8) PairReduceSum(z, x, 3, mask, 1, 1, 10);
    if (op == 9) MulAddDst(z, x, y, (uint64_t)mask, 3, {1, 1, 1, 10, 10, 0});
    if (op == 10) Copy(z, x, (uint64_t)mask, 3, {1, 1, 10, 10});
    bench.Store<T>(out, kElements);
}

template <typename To, typename From>
void Conversion(GM_ADDR in, GM_ADDR out, int32_t n, int32_t mode) {
    Bench bench;
    auto x = bench.Load<From>(0, in, n);
    Cast(bench.Output<To>(), x, static_cast<RoundMode>(mode), n);
    bench.Store<To>(out, n);
}

template <typename T>
void Comparison(GM_ADDR a, GM_ADDR b, GM_ADDR bits, int32_t n, int32_t mode, int32_t with_scalar, T scalar) {
    Bench bench;
    auto x = bench.Load<T>(0, a, n), y = bench.Load<T>(1, b, n);
    auto z = bench.Output<uint8_t>();
    if (with_scalar) CompareScalar(z, x, scalar, static_cast<CMPMODE>(mode), n);
    else Compare(z, x, y, static_cast<CMPMODE>(mode), n);
    bench.Store<uint8_t>(bits, n / 8);
}

template <typename T>
void Selection(GM_ADDR a, GM_ADDR b, GM_ADDR mask, GM_ADDR out, int32_t n, int32_t mode, T scalar) {
    Bench bench;
    auto x = bench.Load<T>(0, a, n), y = bench.Load<T>(1, b, n), z = bench.Output<T>();
    auto bits = bench.Load<uint8_t>(2, mask, (n + 7) / 8);
    auto selection = static_cast<SELMODE>(mode);
    if (selection == SELMODE::VSEL_TENSOR_SCALAR_MODE) Select(z, bits, x, scalar, selection, n);
    else Select(z, bits, x, y, selection, n);
    bench.Store<T>(out, n);
}

template <typename T>
void Reduction(GM_ADDR in, GM_ADDR out, int32_t n, int32_t op) {
    Bench bench;
    auto x = bench.Load<T>(0, in, n), z = bench.Output<T>(), work = bench.Work<T>();
    Duplicate(z, T(0), 32);
    if (op == 0) ReduceSum(z, x, work, n);
    if (op == 1) ReduceMax(z, x, work, n, true);
    if (op == 2) ReduceMin(z, x, work, n, true);
    if (op == 3) ReduceMax(z, x, x, n);  // the source may be the work space
    bench.Store<T>(out, 2);
}

template <typename T>
void Filling(GM_ADDR in, GM_ADDR offsets, GM_ADDR out, int32_t n, int32_t op, int32_t base) {
    Bench bench;
    auto x = bench.Load<T>(0, in, n), z = bench.Output<T>();
    auto at = bench.Load<uint32_t>(1, offsets, n);
    if (op == 0) Duplicate(z, x.GetValue(1), n);
    if (op == 1) Gather(z, x, at, (uint32_t)base, n);
    if (op == 2) Brcb(z, x, (uint8_t)(n / 8), {1, 8});
    if constexpr (ascendc_host::kOneOf<T, int16_t, half, int32_t, float>) {
        if (op == 3) CreateVecIndex(z, T(base), n);
        if (op == 4) ArithProgression(z, T(base), T(2), n);
    }
    bench.Store<T>(out, op == 2 ? n * 32 / sizeof(T) : n);
}

}  // namespace

#define ARITHMETIC(name, T, S)                                                                                   \
    extern "C" __global__ __aicore__ void arithmetic_##name(GM_ADDR a, GM_ADDR b, GM_ADDR out, int32_t n, int32_t op, \
                                                            S scalar) {                                          \
        Arithmetic<T>(a, b, out, n, op, static_cast<T>(scalar));                                                 \
    }
ARITHMETIC(float, float, float)
ARITHMETIC(half, half, float)
ARITHMETIC(int16, int16_t, int32_t)
ARITHMETIC(uint16, uint16_t, int32_t)
ARITHMETIC(int32, int32_t, int32_t)
ARITHMETIC(uint32, uint32_t, int32_t)

#define FLOATS(name, T)                                                                                              \
    extern "C" __global__ __aicore__ void repeats_##name(GM_ADDR a, GM_ADDR b, GM_ADDR out, int32_t mask, int32_t op) { \
        Repeats<T>(a, b, out, mask, op);                                                                             \
    }                                                                                                                \
    extern "C" __global__ __aicore__ void compare_##name(GM_ADDR a, GM_ADDR b, GM_ADDR bits, int32_t n, int32_t mode, \
                                                         int32_t with_scalar, float scalar) {                        \
        Comparison<T>(a, b, bits, n, mode, with_scalar, static_cast<T>(scalar));                                     \
    }                                                                                                                \
    extern "C" __global__ __aicore__ void select_##name(GM_ADDR a, GM_ADDR b, GM_ADDR mask, GM_ADDR out, int32_t n,  \
                                                        int32_t mode, float scalar) {                                \
        Selection<T>(a, b, mask, out, n, mode, static_cast<T>(scalar));                                              \
    }                                                                                                                \
    extern "C" __global__ __aicore__ void reduce_##name(GM_ADDR in, GM_ADDR out, int32_t n, int32_t op) {            \
        Reduction<T>(in, out, n, op);                                                                                \
    }
FLOATS(float, float)
FLOATS(half, half)

extern "C" __global__ __aicore__ void compare_int32(GM_ADDR a, GM_ADDR b, GM_ADDR bits, int32_t n, int32_t mode,
                                                    int32_t with_scalar, int32_t scalar) {
    Comparison<int32_t>(a, b, bits, n, mode, with_scalar, scalar);
}

#define FILLING(name, T)                                                                                          \
    extern "C" __global__ __aicore__ void fill_##name(GM_ADDR in, GM_ADDR offsets, GM_ADDR out, int32_t n, int32_t op, \
                                                      int32_t base) {                                             \
        Filling<T>(in, offsets, out, n, op, base);                                                                \
    }
FILLING(float, float)
FILLING(half, half)
FILLING(int16, int16_t)
FILLING(uint16, uint16_t)
FILLING(int32, int32_t)
FILLING(uint32, uint32_t)

#define CAST(from, to, From, To)                                                                               \
    extern "C" __global__ __aicore__ void cast_##from##_##to(GM_ADDR in, GM_ADDR out, int32_t n, int32_t mode) { \
        Conversion<To, From>(in, out, n, mode);                                                                \
    }
CAST(int8, half, int8_t, half)
CAST(uint8, half, uint8_t, half)
CAST(int16, half, int16_t, half)
CAST(int16, float, int16_t, float)
CAST(half, int8, half, int8_t)
CAST(half, uint8, half, uint8_t)
CAST(half, int16, half, int16_t)
CAST(half, int32, half, int32_t)
CAST(half, float, half, float)
CAST(bfloat16, int32, bfloat16_t, int32_t)
CAST(bfloat16, float, bfloat16_t, float)
CAST(int32, int16, int32_t, int16_t)
CAST(int32, half, int32_t, half)
CAST(int32, float, int32_t, float)
CAST(int32, int64, int32_t, int64_t)
CAST(float, int16, float, int16_t)
CAST(float, half, float, half)
CAST(float, bfloat16, float, bfloat16_t)
CAST(float, int32, float, int32_t)
CAST(float, float, float, float)
CAST(float, int64, float, int64_t)
CAST(int64, int32, int64_t, int32_t)
CAST(int64, float, int64_t, float)

// Rows of `length` elements, `gap` elements apart in global memory, padded on both sides, and back without the padding.
extern "C" __global__ __aicore__ void copy_rows(GM_ADDR in, GM_ADDR padded, GM_ADDR out, int32_t rows, int32_t length,
                                                int32_t gap, int32_t left, int32_t right) {
    Bench bench;
    GlobalTensor<float> source, destination;
    source.SetGlobalBuffer((__gm__ float*)in, (uint64_t)rows * (length + gap));
    destination.SetGlobalBuffer((__gm__ float*)out, (uint64_t)rows * (length + gap));
    auto local = bench.Output<float>();
    uint32_t bytes = length * sizeof(float);
    DataCopyPad(local, source, {(uint16_t)rows, bytes, (uint32_t)(gap * sizeof(float)), 1, 0},
                {true, (uint8_t)left, (uint8_t)right, -1.0f});
    SetFlag<HardEvent::MTE2_V>(EVENT_ID0);
    WaitFlag<HardEvent::MTE2_V>(EVENT_ID0);
    uint32_t row = (length + left + right + 7) / 8 * 8;
    for (int32_t i = 0; i < rows; ++i) Adds(local[i * (row + 8)], local[i * (row + 8)], 0.0f, (int32_t)row);
    // The blocks between the rows are not written by the copy.
    for (int32_t i = 0; i < rows; ++i) Duplicate(local[i * (row + 8) + row], 7.0f, 8);
    bench.Store<float>(padded, rows * (row + 8));
    if (left == 0) {
        uint32_t skipped = row / 8 - (length + 7) / 8 + 1;
        DataCopyPad(destination, local, {(uint16_t)rows, bytes, skipped, (uint32_t)(gap * sizeof(float)), 0});
    }
}

// Every block adds its number to, or keeps the extreme of, the same elements.
extern "C" __global__ __aicore__ void atomics(GM_ADDR out, int32_t n, int32_t op) {
    Bench bench;
    GlobalTensor<int32_t> global;
    global.SetGlobalBuffer((__gm__ int32_t*)out, n);
    auto local = bench.Output<int32_t>();
    Duplicate(local, (int32_t)GetBlockIdx() + 1, n);
    SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
    if (op == 0) SetAtomicAdd<int32_t>();
    if (op == 1) SetAtomicMax<int32_t>();
    if (op == 2) SetAtomicMin<int32_t>();
    DataCopyPad(global, local, {1, (uint32_t)(n * sizeof(int32_t)), 0, 0, 0});
    SetAtomicNone();
}

// Every block writes its number, waits for all, and reads what its neighbour wrote.
extern "C" __global__ __aicore__ void exchange(GM_ADDR shared, GM_ADDR out) {
    Bench bench;
    int32_t blocks = GetBlockNum(), block = GetBlockIdx();
    GlobalTensor<int32_t> between, result;
    between.SetGlobalBuffer((__gm__ int32_t*)shared, blocks * 8);
    result.SetGlobalBuffer((__gm__ int32_t*)out, blocks * 8);
    auto local = bench.Output<int32_t>();
    Duplicate(local, block * 10, 8);
    SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
    DataCopy(between[block * 8], local, 8);
    SyncAll();
    auto neighbour = bench.Load<int32_t>(0, (GM_ADDR)between.GetPhyAddr((block + 1) % blocks * 8), 8);
    Adds(local, neighbour, 1, 8);
    SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
    WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);
    DataCopy(result[block * 8], local, 8);
}

extern "C" __global__ __aicore__ void scalars(GM_ADDR in, GM_ADDR out, int32_t n) {
    Bench bench;
    auto x = bench.Load<float>(0, in, n);
    auto z = bench.Output<bfloat16_t>();
    Duplicate(z, bfloat16_t{0}, 16);
    for (int32_t i = 0; i < n; ++i) z.SetValue(i, ToBfloat16(ToFloat(ToBfloat16(x.GetValue(i))) * 2.0f));
    bench.Store<bfloat16_t>(out, n);
}

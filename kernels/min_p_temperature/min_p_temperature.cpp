// Temperature and min-p: y = x / temperature, then minus infinity where the probability of a token is below min_p times
// that of the likeliest one. softmax(y)[v] < min_p * max(softmax(y)) is y[v] < max(y) + ln(min_p), which needs neither
// an exponential nor a sum.
//
// Blocks of the launch take rows in turn; a row stays on one core, because the maximum must be known before the first
// write. Rows that neither of the two changes are not touched, and rows without min-p are read once.
#include <type_traits>

#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kTile = 8192;
constexpr uint32_t kLanes = 64;  // floats in one repeat; Compare works on whole repeats
constexpr uint32_t kBlock = 8;   // floats in 32 bytes
constexpr float kGreedy = 1e-5f; // below it a request is greedy and its temperature counts as 1

template <typename T>
class MinPTemperature {
public:
    __aicore__ inline MinPTemperature(GM_ADDR logits, GM_ADDR temperature, GM_ADDR min_p, int32_t rows, int32_t vocab,
                                      int64_t stride)
        : rows_(rows), vocab_(vocab), stride_(stride), has_temperature_(temperature != nullptr),
          has_min_p_(min_p != nullptr) {
        logits_.SetGlobalBuffer((__gm__ T*)logits);
        if (has_temperature_) temperature_.SetGlobalBuffer((__gm__ float*)temperature, rows);
        if (has_min_p_) min_p_.SetGlobalBuffer((__gm__ float*)min_p, rows);
        pipe_.InitBuffer(in_queue_, 2, kTile * sizeof(T));
        pipe_.InitBuffer(out_queue_, 2, kTile * sizeof(T));
        pipe_.InitBuffer(row_buffer_, kTile * sizeof(float));
        pipe_.InitBuffer(keep_buffer_, kTile / 8);
        pipe_.InitBuffer(work_buffer_, kTile / kLanes * 2 * sizeof(float));
        pipe_.InitBuffer(scalar_buffer_, kBlock * sizeof(float));
        if constexpr (!kIsFloat) pipe_.InitBuffer(float_buffer_, kTile * sizeof(float));
    }

    __aicore__ inline void Run() {
        for (uint32_t row = GetBlockIdx(); row < rows_; row += GetBlockNum()) {
            float temperature = has_temperature_ ? temperature_.GetValue(row) : 1.0f;
            if (temperature < kGreedy) temperature = 1.0f;
            float min_p = has_min_p_ ? min_p_.GetValue(row) : 0.0f;
            bool limited = min_p > 0.0f;
            if (temperature == 1.0f && !limited) continue;
            float threshold = limited ? Maximum(row) / temperature + Logarithm(min_p) : 0.0f;
            Rewrite(row, temperature, limited, threshold);
        }
    }

private:
    static constexpr bool kIsFloat = std::is_same_v<T, float>;

    __aicore__ inline uint32_t Length(uint32_t first) { return vocab_ - first < kTile ? vocab_ - first : kTile; }

    __aicore__ inline LocalTensor<T> Load(uint64_t offset, uint32_t length) {
        LocalTensor<T> logits = in_queue_.template AllocTensor<T>();
        DataCopyExtParams copy{1, (uint32_t)(length * sizeof(T)), 0, 0, 0};
        DataCopyPad(logits, logits_[offset], copy, {false, 0, 0, T{}});
        in_queue_.EnQue(logits);
        return in_queue_.template DeQue<T>();
    }

    // A running maximum for each place in the tile: the scalar unit has to wait only once per row.
    __aicore__ inline float Maximum(uint64_t row) {
        LocalTensor<float> largest = row_buffer_.Get<float>();
        LocalTensor<float> scalar = scalar_buffer_.Get<float>();
        uint32_t width = Length(0);
        Duplicate(largest, -__builtin_inff(), width);
        for (uint32_t first = 0; first < vocab_; first += kTile) {
            uint32_t length = Length(first);
            LocalTensor<T> logits = Load(row * stride_ + first, length);
            if constexpr (kIsFloat) {
                Max(largest, largest, logits, length);
            } else {
                LocalTensor<float> wide = float_buffer_.template Get<float>();
                Cast(wide, logits, RoundMode::CAST_NONE, length);
                Max(largest, largest, wide, length);
            }
            in_queue_.FreeTensor(logits);
        }
        ReduceMax(scalar, largest, work_buffer_.Get<float>(), width);
        return scalar.GetValue(0);
    }

    __aicore__ inline float Logarithm(float value) {
        LocalTensor<float> scalar = scalar_buffer_.Get<float>();
        Duplicate(scalar, value, kBlock);
        Ln(scalar, scalar, kBlock);
        return scalar.GetValue(0);
    }

    __aicore__ inline void Rewrite(uint64_t row, float temperature, bool limited, float threshold) {
        LocalTensor<float> divisor = row_buffer_.Get<float>();
        LocalTensor<uint8_t> keep = keep_buffer_.Get<uint8_t>();
        // A division like vLLM's: a product with the reciprocal rounds differently.
        Duplicate(divisor, temperature, Length(0));
        for (uint32_t first = 0; first < vocab_; first += kTile) {
            uint32_t length = Length(first);
            uint64_t offset = row * stride_ + first;
            LocalTensor<T> logits = Load(offset, length);
            LocalTensor<T> result = out_queue_.template AllocTensor<T>();
            LocalTensor<float> values;
            if constexpr (kIsFloat) {
                values = result;
                Div(values, logits, divisor, length);
            } else {
                values = float_buffer_.template Get<float>();
                Cast(values, logits, RoundMode::CAST_NONE, length);
                Div(values, values, divisor, length);
            }
            in_queue_.FreeTensor(logits);
            if (limited) {
                CompareScalar(keep, values, threshold, CMPMODE::GE, (length + kLanes - 1) / kLanes * kLanes);
                Select(values, keep, values, -__builtin_inff(), SELMODE::VSEL_TENSOR_SCALAR_MODE, length);
            }
            if constexpr (!kIsFloat) Cast(result, values, RoundMode::CAST_RINT, length);
            out_queue_.EnQue(result);
            result = out_queue_.template DeQue<T>();
            DataCopyExtParams copy{1, (uint32_t)(length * sizeof(T)), 0, 0, 0};
            DataCopyPad(logits_[offset], result, copy);
            out_queue_.FreeTensor(result);
        }
    }

    TPipe pipe_;
    TQue<TPosition::VECIN, 1> in_queue_;
    TQue<TPosition::VECOUT, 1> out_queue_;
    TBuf<TPosition::VECCALC> row_buffer_, keep_buffer_, work_buffer_, scalar_buffer_, float_buffer_;
    GlobalTensor<T> logits_;
    GlobalTensor<float> temperature_, min_p_;
    uint32_t rows_, vocab_;
    uint64_t stride_;
    bool has_temperature_, has_min_p_;
};

}  // namespace

// logits T[rows, vocab] with rows `stride` elements apart; temperature and min_p f32[rows], or null for 1 and 0.
extern "C" __global__ __aicore__ void min_p_temperature_float(GM_ADDR logits, GM_ADDR temperature, GM_ADDR min_p,
                                                              int32_t rows, int32_t vocab, int64_t stride) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    MinPTemperature<float>(logits, temperature, min_p, rows, vocab, stride).Run();
}

extern "C" __global__ __aicore__ void min_p_temperature_half(GM_ADDR logits, GM_ADDR temperature, GM_ADDR min_p,
                                                             int32_t rows, int32_t vocab, int64_t stride) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    MinPTemperature<half>(logits, temperature, min_p, rows, vocab, stride).Run();
}

extern "C" __global__ __aicore__ void min_p_temperature_bfloat16(GM_ADDR logits, GM_ADDR temperature, GM_ADDR min_p,
                                                                 int32_t rows, int32_t vocab, int64_t stride) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    MinPTemperature<bfloat16_t>(logits, temperature, min_p, rows, vocab, stride).Run();
}

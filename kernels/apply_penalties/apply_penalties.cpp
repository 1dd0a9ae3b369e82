// Repetition, frequency and presence penalties, from the token ids of prompt and output.
//
// Blocks of the launch take (row, tile of the vocabulary) units in turn. A unit first counts how often each of its tokens
// occurs: vector instructions find the ids that fall into the tile, 64 at a time, and the scalar unit visits those. A row
// without penalties, or a tile without any of the row's tokens, is neither read nor written.
#include <type_traits>

#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kTile = 8192;     // tokens of one unit
constexpr uint32_t kIds = 2048;      // token ids in the unified buffer at once
constexpr uint32_t kLanes = 64;      // floats in one repeat; Compare works on whole repeats
constexpr uint32_t kWordBits = 32;
constexpr float kInPrompt = 0.5f;    // a table entry is the count in the output, plus this if the prompt has the token

// A matrix of token ids; its rows may be apart.
struct Ids {
    GlobalTensor<int64_t> values;
    uint32_t length;
    uint64_t stride;
};

template <typename T>
class Penalties {
public:
    __aicore__ inline Penalties(GM_ADDR logits, GM_ADDR prompt, GM_ADDR output, GM_ADDR presence, GM_ADDR frequency,
                                GM_ADDR repetition, int32_t rows, int32_t vocab, int32_t prompt_length,
                                int32_t output_length, int64_t logits_stride, int64_t prompt_stride,
                                int64_t output_stride)
        : rows_(rows), vocab_(vocab), logits_stride_(logits_stride) {
        logits_.SetGlobalBuffer((__gm__ T*)logits);
        prompt_.values.SetGlobalBuffer((__gm__ int64_t*)prompt);
        prompt_.length = prompt_length;
        prompt_.stride = prompt_stride;
        output_.values.SetGlobalBuffer((__gm__ int64_t*)output);
        output_.length = output_length;
        output_.stride = output_stride;
        presence_.SetGlobalBuffer((__gm__ float*)presence, rows);
        frequency_.SetGlobalBuffer((__gm__ float*)frequency, rows);
        repetition_.SetGlobalBuffer((__gm__ float*)repetition, rows);
        pipe_.InitBuffer(id_queue_, 2, kIds * sizeof(int64_t));
        pipe_.InitBuffer(in_queue_, 1, kTile * sizeof(T));
        pipe_.InitBuffer(out_queue_, 1, kTile * sizeof(T));
        pipe_.InitBuffer(id_buffer_, kIds * sizeof(int32_t));
        pipe_.InitBuffer(distance_buffer_, kIds * sizeof(float));
        pipe_.InitBuffer(hit_buffer_, kIds / 8);
        pipe_.InitBuffer(table_buffer_, kTile * sizeof(float));
        pipe_.InitBuffer(scaled_buffer_, kTile * sizeof(float));
        pipe_.InitBuffer(seen_buffer_, kTile / 8);
        if constexpr (!kIsFloat) pipe_.InitBuffer(float_buffer_, kTile * sizeof(float));
    }

    __aicore__ inline void Run() {
        uint32_t tiles = (vocab_ + kTile - 1) / kTile;
        for (uint32_t unit = GetBlockIdx(); unit < rows_ * tiles; unit += GetBlockNum()) {
            uint32_t row = unit / tiles, first = unit % tiles * kTile;
            float repetition = repetition_.GetValue(row);
            float frequency = frequency_.GetValue(row);
            float presence = presence_.GetValue(row);
            if (repetition == 1.0f && frequency == 0.0f && presence == 0.0f) continue;
            uint32_t length = vocab_ - first < kTile ? vocab_ - first : kTile;
            Duplicate(table_buffer_.Get<float>(), 0.0f, length);
            bool in_prompt = Count(prompt_, row, first, length, false);
            bool in_output = Count(output_, row, first, length, true);
            if (in_prompt || in_output) Apply(row, first, length, repetition, frequency, presence);
        }
    }

private:
    static constexpr bool kIsFloat = std::is_same_v<T, float>;

    // Enters the row's ids between first and first + length into the table; false if there is none.
    __aicore__ inline bool Count(const Ids& ids, uint64_t row, uint32_t first, uint32_t length, bool output) {
        bool found = false;
        for (uint32_t begin = 0; begin < ids.length; begin += kIds) {
            uint32_t count = ids.length - begin < kIds ? ids.length - begin : kIds;
            LocalTensor<int64_t> wide = id_queue_.AllocTensor<int64_t>();
            DataCopyExtParams copy{1, (uint32_t)(count * sizeof(int64_t)), 0, 0, 0};
            DataCopyPad(wide, ids.values[row * ids.stride + begin], copy, {false, 0, 0, 0});
            id_queue_.EnQue(wide);
            wide = id_queue_.DeQue<int64_t>();
            LocalTensor<int32_t> tokens = id_buffer_.Get<int32_t>();
            LocalTensor<float> distances = distance_buffer_.Get<float>();
            LocalTensor<uint32_t> hits = hit_buffer_.Get<uint32_t>();
            Cast(tokens, wide, RoundMode::CAST_NONE, count);
            id_queue_.FreeTensor(wide);
            Adds(tokens, tokens, -(int32_t)first, count);
            // One comparison instead of two: ids of the tile are within half its width of its centre. Float is exact
            // there, and rounds monotonically elsewhere.
            float centre = (length - 1) * 0.5f;
            Cast(distances, tokens, RoundMode::CAST_RINT, count);
            Adds(distances, distances, -centre, count);
            Abs(distances, distances, count);
            CompareScalar(hits.ReinterpretCast<uint8_t>(), distances, centre, CMPMODE::LE,
                          (count + kLanes - 1) / kLanes * kLanes);
            if (Enter(tokens, hits, count, output)) found = true;
        }
        return found;
    }

    __aicore__ inline bool Enter(const LocalTensor<int32_t>& tokens, const LocalTensor<uint32_t>& hits, uint32_t count,
                                 bool output) {
        LocalTensor<float> table = table_buffer_.Get<float>();
        bool found = false;
        for (uint32_t begin = 0; begin < count; begin += kWordBits) {
            uint32_t word = hits.GetValue(begin / kWordBits);
            // Bits behind the last id are whatever the buffer held.
            if (count - begin < kWordBits) word &= (1u << (count - begin)) - 1;
            if (word != 0) found = true;
            for (uint32_t i = begin; word != 0; ++i, word >>= 1) {
                if ((word & 1) == 0) continue;
                uint32_t token = tokens.GetValue(i);
                table.SetValue(token, output ? table.GetValue(token) + 1.0f : kInPrompt);
            }
        }
        return found;
    }

    __aicore__ inline void Apply(uint64_t row, uint32_t first, uint32_t length, float repetition, float frequency,
                                 float presence) {
        uint64_t offset = row * logits_stride_ + first;
        LocalTensor<T> logits = in_queue_.template AllocTensor<T>();
        DataCopyExtParams copy{1, (uint32_t)(length * sizeof(T)), 0, 0, 0};
        DataCopyPad(logits, logits_[offset], copy, {false, 0, 0, T{}});
        in_queue_.EnQue(logits);
        logits = in_queue_.template DeQue<T>();
        LocalTensor<T> result = out_queue_.template AllocTensor<T>();
        if constexpr (kIsFloat) {
            Scale(logits, result, logits, length, repetition);
            Subtract(result, length, frequency, presence);
        } else {
            LocalTensor<float> wide = float_buffer_.template Get<float>();
            Cast(wide, logits, RoundMode::CAST_NONE, length);
            Scale(wide, wide, logits, length, repetition);
            Subtract(wide, length, frequency, presence);
            Cast(result, wide, RoundMode::CAST_RINT, length);
        }
        in_queue_.FreeTensor(logits);
        out_queue_.EnQue(result);
        result = out_queue_.template DeQue<T>();
        DataCopyPad(logits_[offset], result, copy);
        out_queue_.FreeTensor(result);
    }

    // result = seen ? (values > 0 ? values / repetition : values * repetition) : values. `result` may be `values`,
    // which is then read again from `logits`.
    __aicore__ inline void Scale(const LocalTensor<float>& values, const LocalTensor<float>& result,
                                 const LocalTensor<T>& logits, uint32_t length, float repetition) {
        LocalTensor<float> scaled = scaled_buffer_.Get<float>();
        LocalTensor<uint8_t> seen = seen_buffer_.Get<uint8_t>();
        Muls(scaled, values, 1.0f / repetition, length);
        Muls(result, values, repetition, length);
        // For a penalty of 1 and more the smaller of the two is the right one on both sides of zero.
        if (repetition >= 1.0f) {
            Min(scaled, scaled, result, length);
        } else {
            Max(scaled, scaled, result, length);
        }
        CompareScalar(seen, table_buffer_.Get<float>(), 0.0f, CMPMODE::GT, (length + kLanes - 1) / kLanes * kLanes);
        if constexpr (!kIsFloat) Cast(values, logits, RoundMode::CAST_NONE, length);
        Select(result, seen, scaled, values, SELMODE::VSEL_TENSOR_TENSOR_MODE, length);
    }

    // result -= frequency * count, then presence where count > 0: two roundings, as in vLLM.
    __aicore__ inline void Subtract(const LocalTensor<float>& result, uint32_t length, float frequency, float presence) {
        LocalTensor<float> counts = table_buffer_.Get<float>();
        LocalTensor<float> penalty = scaled_buffer_.Get<float>();
        Cast(counts, counts, RoundMode::CAST_FLOOR, length);
        Muls(penalty, counts, frequency, length);
        Sub(result, result, penalty, length);
        Mins(penalty, counts, 1.0f, length);
        Muls(penalty, penalty, presence, length);
        Sub(result, result, penalty, length);
    }

    TPipe pipe_;
    TQue<TPosition::VECIN, 1> id_queue_, in_queue_;
    TQue<TPosition::VECOUT, 1> out_queue_;
    TBuf<TPosition::VECCALC> id_buffer_, distance_buffer_, hit_buffer_, table_buffer_, scaled_buffer_, seen_buffer_,
        float_buffer_;
    GlobalTensor<T> logits_;
    GlobalTensor<float> presence_, frequency_, repetition_;
    Ids prompt_, output_;
    uint32_t rows_, vocab_;
    uint64_t logits_stride_;
};

}  // namespace

// logits T[rows, vocab], prompt and output i64[rows, their length], rows their stride in elements apart; presence,
// frequency and repetition f32[rows]. Ids outside 0 ... vocab - 1 are padding.
extern "C" __global__ __aicore__ void apply_penalties_float(GM_ADDR logits, GM_ADDR prompt, GM_ADDR output,
                                                            GM_ADDR presence, GM_ADDR frequency, GM_ADDR repetition,
                                                            int32_t rows, int32_t vocab, int32_t prompt_length,
                                                            int32_t output_length, int64_t logits_stride,
                                                            int64_t prompt_stride, int64_t output_stride) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Penalties<float>(logits, prompt, output, presence, frequency, repetition, rows, vocab, prompt_length, output_length,
                     logits_stride, prompt_stride, output_stride).Run();
}

extern "C" __global__ __aicore__ void apply_penalties_half(GM_ADDR logits, GM_ADDR prompt, GM_ADDR output,
                                                           GM_ADDR presence, GM_ADDR frequency, GM_ADDR repetition,
                                                           int32_t rows, int32_t vocab, int32_t prompt_length,
                                                           int32_t output_length, int64_t logits_stride,
                                                           int64_t prompt_stride, int64_t output_stride) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Penalties<half>(logits, prompt, output, presence, frequency, repetition, rows, vocab, prompt_length, output_length,
                    logits_stride, prompt_stride, output_stride).Run();
}

extern "C" __global__ __aicore__ void apply_penalties_bfloat16(GM_ADDR logits, GM_ADDR prompt, GM_ADDR output,
                                                               GM_ADDR presence, GM_ADDR frequency, GM_ADDR repetition,
                                                               int32_t rows, int32_t vocab, int32_t prompt_length,
                                                               int32_t output_length, int64_t logits_stride,
                                                               int64_t prompt_stride, int64_t output_stride) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Penalties<bfloat16_t>(logits, prompt, output, presence, frequency, repetition, rows, vocab, prompt_length,
                          output_length, logits_stride, prompt_stride, output_stride).Run();
}

// LoRA's first product: output[slice, token] = scale * input[token] x A[adapter of the token], one row of A per rank.
//
// A unit is eight tokens of one slice and some ranks. Neighbours with the same adapter share each row of A that is loaded
// (sorted tokens: sgmv; decoding: bgmv). Products and sums are in float, over tiles of the hidden size.
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr int32_t kTokens = 8;     // tokens of one unit
constexpr int32_t kColumns = 2048;  // of the hidden size at once
constexpr int32_t kRanks = 64;     // ranks of one unit at most
constexpr int32_t kPerBlock = 8;   // int32 in the 32 bytes where a transfer may start

template <HardEvent event>
__aicore__ inline void Order() {
    int32_t id = (int32_t)GetTPipePtr()->FetchEventID(event);
    SetFlag<event>(id);
    WaitFlag<event>(id);
}

template <typename T>
class Shrink {
public:
    __aicore__ inline Shrink(GM_ADDR inputs, GM_ADDR weights, GM_ADDR output, GM_ADDR loras, GM_ADDR order,
                             int32_t tokens, int32_t slices, int32_t rank, int32_t hidden, int32_t ranks, float scale)
        : tokens_(tokens), slices_(slices), rank_(rank), hidden_(hidden), ranks_(ranks), scale_(scale),
          ordered_(order != nullptr) {
        inputs_.SetGlobalBuffer((__gm__ T*)inputs, (uint64_t)tokens * hidden);
        weights_.SetGlobalBuffer((__gm__ int64_t*)weights, slices);
        output_.SetGlobalBuffer((__gm__ float*)output, (uint64_t)slices * tokens * rank);
        loras_.SetGlobalBuffer((__gm__ int32_t*)loras, tokens);
        if (ordered_) order_.SetGlobalBuffer((__gm__ int32_t*)order, tokens);
        pipe_.InitBuffer(input_queue_, 1, kTokens * kColumns * sizeof(T));
        pipe_.InitBuffer(weight_queue_, 2, kColumns * sizeof(T));
        pipe_.InitBuffer(output_queue_, 2, kTokens * kRanks * sizeof(float));
        pipe_.InitBuffer(word_buffer_, kTokens * kPerBlock * sizeof(int32_t));
        pipe_.InitBuffer(address_buffer_, 32);
        pipe_.InitBuffer(product_buffer_, kColumns * sizeof(float));
        pipe_.InitBuffer(work_buffer_, kColumns / 8 * sizeof(float));
        pipe_.InitBuffer(part_buffer_, kTokens * kRanks * sizeof(float));
        pipe_.InitBuffer(total_buffer_, kTokens * kRanks * sizeof(float));
        if constexpr (sizeof(T) != sizeof(float)) {
            pipe_.InitBuffer(wide_input_buffer_, kTokens * kColumns * sizeof(float));
            pipe_.InitBuffer(wide_weight_buffer_, kColumns * sizeof(float));
        }
    }

    __aicore__ inline void Run() {
        int32_t groups = (tokens_ + kTokens - 1) / kTokens;
        int32_t chunks = (rank_ + ranks_ - 1) / ranks_;
        for (int32_t unit = (int32_t)GetBlockIdx(); unit < slices_ * groups * chunks; unit += (int32_t)GetBlockNum()) {
            int32_t slice = unit / (groups * chunks);
            int32_t first = unit / chunks % groups * kTokens;
            int32_t rank = unit % chunks * ranks_;
            Unit(slice, first, tokens_ - first < kTokens ? tokens_ - first : kTokens, rank,
                 rank_ - rank < ranks_ ? rank_ - rank : ranks_);
        }
    }

private:
    __aicore__ inline void Unit(int32_t slice, int32_t first, int32_t count, int32_t rank, int32_t ranks) {
        Tokens(first, count);
        LocalTensor<int64_t> address = address_buffer_.Get<int64_t>();
        DataCopyExtParams copy{1, sizeof(int64_t), 0, 0, 0};
        DataCopyPad(address, weights_[slice], copy, {false, 0, 0, 0});
        Order<HardEvent::MTE2_S>();
        __gm__ T* weights = (__gm__ T*)address.GetValue(0);
        Order<HardEvent::S_MTE2>();

        LocalTensor<float> totals = total_buffer_.Get<float>();
        Duplicate(totals, 0.0f, kTokens * kRanks);
        Duplicate(part_buffer_.Get<float>(), 0.0f, kTokens * kRanks);
        for (int32_t begin = 0, end; begin < count; begin = end) {
            end = begin + 1;
            while (end < count && lora_[end] == lora_[begin]) ++end;
            if (lora_[begin] < 0) continue;
            GlobalTensor<T> rows;
            uint64_t row = (uint64_t)lora_[begin] * rank_ + rank;
            rows.SetGlobalBuffer(weights + row * hidden_, (uint64_t)ranks * hidden_);
            for (int32_t column = 0; column < hidden_; column += kColumns) {
                Products(rows, begin, end, column, hidden_ - column < kColumns ? hidden_ - column : kColumns, ranks);
            }
        }

        LocalTensor<float> results = output_queue_.AllocTensor<float>();
        Muls(results, totals, scale_, kTokens * kRanks);
        output_queue_.EnQue(results);
        results = output_queue_.DeQue<float>();
        for (int32_t i = 0; i < count; ++i) {
            uint64_t at = ((uint64_t)slice * tokens_ + token_[i]) * rank_ + rank;
            DataCopyExtParams store{1, (uint32_t)(ranks * sizeof(float)), 0, 0, 0};
            DataCopyPad(output_[at], results[i * kRanks], store);
        }
        output_queue_.FreeTensor(results);
    }

    // Which tokens a unit has and which adapter each of them uses; -1 for none.
    __aicore__ inline void Tokens(int32_t first, int32_t count) {
        LocalTensor<int32_t> words = word_buffer_.Get<int32_t>();
        if (ordered_) {
            DataCopyExtParams copy{1, (uint32_t)(count * sizeof(int32_t)), 0, 0, 0};
            DataCopyPad(words, order_[first], copy, {false, 0, 0, 0});
            Order<HardEvent::MTE2_S>();
        }
        for (int32_t i = 0; i < count; ++i) token_[i] = ordered_ ? words.GetValue(i) : first + i;
        Order<HardEvent::S_MTE2>();
        for (int32_t i = 0; i < count; ++i) {
            DataCopyExtParams word{1, sizeof(int32_t), 0, 0, 0};
            DataCopyPad(words[i * kPerBlock], loras_[token_[i]], word, {false, 0, 0, 0});
        }
        Order<HardEvent::MTE2_S>();
        for (int32_t i = 0; i < count; ++i) lora_[i] = words.GetValue(i * kPerBlock);
        Order<HardEvent::S_MTE2>();
    }

    // totals += products over columns [column, column + width) for the unit's tokens [begin, end), which share an adapter.
    __aicore__ inline void Products(const GlobalTensor<T>& rows, int32_t begin, int32_t end, int32_t column,
                                    int32_t width, int32_t ranks) {
        DataCopyExtParams copy{1, (uint32_t)(width * sizeof(T)), 0, 0, 0};
        LocalTensor<T> loaded = input_queue_.template AllocTensor<T>();
        for (int32_t i = begin; i < end; ++i) {
            DataCopyPad(loaded[i * kColumns], inputs_[(uint64_t)token_[i] * hidden_ + column], copy, NoPad());
        }
        input_queue_.EnQue(loaded);
        loaded = input_queue_.template DeQue<T>();
        LocalTensor<float> inputs = Widen(loaded, wide_input_buffer_, begin, end, width);

        LocalTensor<float> product = product_buffer_.Get<float>();
        LocalTensor<float> parts = part_buffer_.Get<float>();
        LocalTensor<float> totals = total_buffer_.Get<float>();
        Duplicate(parts, 0.0f, kTokens * kRanks);
        for (int32_t rank = 0; rank < ranks; ++rank) {
            LocalTensor<T> row = weight_queue_.template AllocTensor<T>();
            DataCopyPad(row, rows[(uint64_t)rank * hidden_ + column], copy, NoPad());
            weight_queue_.EnQue(row);
            row = weight_queue_.template DeQue<T>();
            LocalTensor<float> weights = Widen(row, wide_weight_buffer_, 0, 1, width);
            for (int32_t i = begin; i < end; ++i) {
                Mul(product, inputs[i * kColumns], weights, width);
                ReduceSum(parts[i * kRanks + rank], product, work_buffer_.Get<float>(), width);
            }
            weight_queue_.FreeTensor(row);
        }
        input_queue_.FreeTensor(loaded);
        Add(totals, totals, parts, kTokens * kRanks);
    }

    // The same rows in float, in `buffer` unless they are float already.
    __aicore__ inline LocalTensor<float> Widen(LocalTensor<T> rows, TBuf<TPosition::VECCALC>& buffer, int32_t begin,
                                               int32_t end, int32_t width) {
        if constexpr (sizeof(T) == sizeof(float)) {
            return rows;
        } else {
            LocalTensor<float> wide = buffer.Get<float>();
            for (int32_t i = begin; i < end; ++i) {
                Cast(wide[i * kColumns], rows[i * kColumns], RoundMode::CAST_NONE, width);
            }
            return wide;
        }
    }

    __aicore__ inline DataCopyPadExtParams<T> NoPad() {
        DataCopyPadExtParams<T> pad;
        pad.isPad = false;
        pad.leftPadding = 0;
        pad.rightPadding = 0;
        return pad;
    }

    TPipe pipe_;
    TQue<TPosition::VECIN, 1> input_queue_, weight_queue_;
    TQue<TPosition::VECOUT, 1> output_queue_;
    TBuf<TPosition::VECCALC> word_buffer_, address_buffer_, product_buffer_, work_buffer_, part_buffer_, total_buffer_,
        wide_input_buffer_, wide_weight_buffer_;
    GlobalTensor<T> inputs_;
    GlobalTensor<int64_t> weights_;
    GlobalTensor<float> output_;
    GlobalTensor<int32_t> loras_, order_;
    int32_t tokens_, slices_, rank_, hidden_, ranks_;
    float scale_;
    bool ordered_;
    int32_t token_[kTokens], lora_[kTokens];
};

}  // namespace

// inputs T[tokens, hidden], weights i64[slices]: addresses of T[adapters, rank, hidden], output f32[slices, tokens, rank],
// loras i32[tokens], order i32[tokens] or null; a unit has `ranks` ranks, at most 64
extern "C" __global__ __aicore__ void lora_shrink_float(GM_ADDR inputs, GM_ADDR weights, GM_ADDR output, GM_ADDR loras,
                                                        GM_ADDR order, int32_t tokens, int32_t slices, int32_t rank,
                                                        int32_t hidden, int32_t ranks, float scale) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Shrink<float> shrink(inputs, weights, output, loras, order, tokens, slices, rank, hidden, ranks, scale);
    shrink.Run();
}

extern "C" __global__ __aicore__ void lora_shrink_half(GM_ADDR inputs, GM_ADDR weights, GM_ADDR output, GM_ADDR loras,
                                                       GM_ADDR order, int32_t tokens, int32_t slices, int32_t rank,
                                                       int32_t hidden, int32_t ranks, float scale) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Shrink<half> shrink(inputs, weights, output, loras, order, tokens, slices, rank, hidden, ranks, scale);
    shrink.Run();
}

extern "C" __global__ __aicore__ void lora_shrink_bfloat16(GM_ADDR inputs, GM_ADDR weights, GM_ADDR output,
                                                           GM_ADDR loras, GM_ADDR order, int32_t tokens, int32_t slices,
                                                           int32_t rank, int32_t hidden, int32_t ranks, float scale) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Shrink<bfloat16_t> shrink(inputs, weights, output, loras, order, tokens, slices, rank, hidden, ranks, scale);
    shrink.Run();
}

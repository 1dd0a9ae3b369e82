// LoRA's second product: output[token, offset + row] (+)= input[slice, token] x B[adapter of the token, row].
//
// A unit is eight tokens of one slice and a tile of rows of B. Neighbours with the same adapter share the tile. Rows are as
// long as the rank, padded with zeros to `pitch`, a power of two: the input times a whole tile is a product in which one
// operand does not advance, and a row's sum is a chain of reductions by 8 and by 2. All of it in float; the output is
// rounded once.
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr int32_t kTokens = 8;     // tokens of one unit
constexpr int32_t kTile = 8192;    // elements of B of one unit, padding included
constexpr int32_t kRank = 512;     // largest rank
constexpr int32_t kRepeat = 64;    // floats of one repeat
constexpr int32_t kPerBlock = 8;   // int32 in the 32 bytes where a transfer may start

template <HardEvent event>
__aicore__ inline void Order() {
    int32_t id = (int32_t)GetTPipePtr()->FetchEventID(event);
    SetFlag<event>(id);
    WaitFlag<event>(id);
}

// What transfers of padded rows are made of: padding values have a type of their own, bfloat16 has no literal.
template <int bytes>
struct Word;
template <>
struct Word<2> {
    using type = int16_t;
};
template <>
struct Word<4> {
    using type = int32_t;
};

template <typename T>
class Expand {
    using Bits = typename Word<sizeof(T)>::type;

public:
    __aicore__ inline Expand(GM_ADDR inputs, GM_ADDR weights, GM_ADDR widths, GM_ADDR offsets, GM_ADDR output,
                             GM_ADDR loras, GM_ADDR order, int32_t tokens, int32_t slices, int32_t rank, int32_t pitch,
                             int32_t rows, int32_t tiles, int32_t output_width, int32_t narrow, int32_t add)
        : inputs_address_(inputs), tokens_(tokens), slices_(slices), rank_(rank), pitch_(pitch), rows_(rows),
          tiles_(tiles), output_width_(output_width), narrow_(narrow != 0), add_(add != 0), ordered_(order != nullptr) {
        weights_.SetGlobalBuffer((__gm__ int64_t*)weights, slices);
        widths_.SetGlobalBuffer((__gm__ int64_t*)widths, slices);
        offsets_.SetGlobalBuffer((__gm__ int64_t*)offsets, slices);
        output_.SetGlobalBuffer((__gm__ T*)output, (uint64_t)tokens * output_width);
        loras_.SetGlobalBuffer((__gm__ int32_t*)loras, tokens);
        if (ordered_) order_.SetGlobalBuffer((__gm__ int32_t*)order, tokens);
        pipe_.InitBuffer(input_queue_, 1, kTokens * kRank * sizeof(float));
        pipe_.InitBuffer(weight_queue_, 1, kTile * sizeof(T));
        pipe_.InitBuffer(old_queue_, 2, kTile / kPerBlock * sizeof(T));
        pipe_.InitBuffer(new_queue_, 2, kTile / kPerBlock * sizeof(T));
        pipe_.InitBuffer(word_buffer_, kTokens * kPerBlock * sizeof(int32_t));
        pipe_.InitBuffer(table_buffer_, 3 * 32);
        pipe_.InitBuffer(wide_input_buffer_, kTokens * kRank * sizeof(float));
        pipe_.InitBuffer(product_buffer_, kTile * sizeof(float));
        pipe_.InitBuffer(even_buffer_, kTile / kPerBlock * sizeof(float));
        pipe_.InitBuffer(odd_buffer_, kTile / kPerBlock * sizeof(float));
        if constexpr (sizeof(T) != sizeof(float)) {
            pipe_.InitBuffer(wide_weight_buffer_, kTile * sizeof(float));
            pipe_.InitBuffer(wide_old_buffer_, kTile / kPerBlock * sizeof(float));
        }
    }

    __aicore__ inline void Run() {
        int32_t groups = (tokens_ + kTokens - 1) / kTokens;
        for (int32_t unit = (int32_t)GetBlockIdx(); unit < slices_ * groups * tiles_; unit += (int32_t)GetBlockNum()) {
            int32_t first = unit / tiles_ % groups * kTokens;
            Unit(unit / (groups * tiles_), first, tokens_ - first < kTokens ? tokens_ - first : kTokens,
                 unit % tiles_ * rows_);
        }
    }

private:
    __aicore__ inline void Unit(int32_t slice, int32_t first, int32_t count, int32_t row) {
        LocalTensor<int64_t> table = table_buffer_.Get<int64_t>();
        DataCopyExtParams copy{1, sizeof(int64_t), 0, 0, 0};
        DataCopyPad(table, weights_[slice], copy, {false, 0, 0, 0});
        DataCopyPad(table[4], widths_[slice], copy, {false, 0, 0, 0});
        DataCopyPad(table[8], offsets_[slice], copy, {false, 0, 0, 0});
        Order<HardEvent::MTE2_S>();
        __gm__ T* weights = (__gm__ T*)table.GetValue(0);
        int32_t width = (int32_t)table.GetValue(4);
        int32_t column = (int32_t)table.GetValue(8) + row;
        Order<HardEvent::S_MTE2>();
        if (row >= width) return;
        int32_t rows = width - row < rows_ ? width - row : rows_;

        Tokens(first, count);
        for (int32_t begin = 0, end; begin < count; begin = end) {
            end = begin + 1;
            while (end < count && lora_[end] == lora_[begin]) ++end;
            if (lora_[begin] < 0) continue;
            LoadInputs(slice, begin, end);
            LocalTensor<T> loaded = LoadWeights(weights + ((uint64_t)lora_[begin] * width + row) * rank_, rows);
            LocalTensor<float> tile = Widen(loaded, wide_weight_buffer_, rows * pitch_);
            for (int32_t i = begin; i < end; ++i) {
                Multiply(tile, i, rows);
                Store(SumRows(rows), (uint64_t)token_[i] * output_width_ + column, rows);
            }
            weight_queue_.FreeTensor(loaded);
        }
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

    // Inputs of tokens [begin, end) in float, zero from the rank to the pitch; repeated up to a whole repeat.
    __aicore__ inline void LoadInputs(int32_t slice, int32_t begin, int32_t end) {
        uint64_t from = (uint64_t)slice * tokens_;
        if (narrow_) {
            FetchInputs<T>(from, begin, end);
        } else {
            FetchInputs<float>(from, begin, end);
        }
        LocalTensor<float> wide = wide_input_buffer_.Get<float>();
        for (int32_t i = begin; i < end; ++i) {
            for (int32_t length = pitch_; length < kRepeat; length *= 2) {
                DataCopy(wide[i * kRank + length], wide[i * kRank], length);
            }
        }
    }

    template <typename Input>
    __aicore__ inline void FetchInputs(uint64_t from, int32_t begin, int32_t end) {
        using Raw = typename Word<sizeof(Input)>::type;
        GlobalTensor<Raw> inputs;
        inputs.SetGlobalBuffer((__gm__ Raw*)inputs_address_, (uint64_t)slices_ * tokens_ * rank_);
        LocalTensor<Input> loaded = input_queue_.template AllocTensor<Input>();
        if (pitch_ != rank_) {
            Duplicate(loaded.template ReinterpretCast<Raw>(), (Raw)0, kTokens * kRank);
            Order<HardEvent::V_MTE2>();
        }
        for (int32_t i = begin; i < end; ++i) {
            DataCopyExtParams copy{1, (uint32_t)(rank_ * sizeof(Input)), 0, 0, 0};
            DataCopyPad(loaded[i * kRank].template ReinterpretCast<Raw>(), inputs[(from + token_[i]) * rank_], copy,
                        {true, 0, (uint8_t)Missing<Input>(), 0});
        }
        input_queue_.EnQue(loaded);
        loaded = input_queue_.template DeQue<Input>();
        LocalTensor<float> wide = wide_input_buffer_.Get<float>();
        for (int32_t i = begin; i < end; ++i) {
            if constexpr (sizeof(Input) == sizeof(float)) {
                Adds(wide[i * kRank], loaded[i * kRank], 0.0f, pitch_);
            } else {
                Cast(wide[i * kRank], loaded[i * kRank], RoundMode::CAST_NONE, pitch_);
            }
        }
        input_queue_.FreeTensor(loaded);
    }

    // Elements from a row's end to the next 32 bytes.
    template <typename Element>
    __aicore__ inline uint32_t Missing() {
        uint32_t bytes = rank_ * sizeof(Element);
        return ((bytes + 31) / 32 * 32 - bytes) / sizeof(Element);
    }

    __aicore__ inline LocalTensor<T> LoadWeights(__gm__ T* from, int32_t rows) {
        GlobalTensor<Bits> weights;
        weights.SetGlobalBuffer((__gm__ Bits*)from, (uint64_t)rows * rank_);
        LocalTensor<T> loaded = weight_queue_.template AllocTensor<T>();
        LocalTensor<Bits> bits = loaded.template ReinterpretCast<Bits>();
        uint32_t bytes = rank_ * sizeof(T);
        if (pitch_ == rank_) {
            DataCopyExtParams copy{1, rows * bytes, 0, 0, 0};
            DataCopyPad(bits, weights, copy, {false, 0, 0, 0});
        } else {
            Duplicate(bits, (Bits)0, rows * pitch_);
            Order<HardEvent::V_MTE2>();
            uint32_t gap = (pitch_ * sizeof(T) - (bytes + 31) / 32 * 32) / 32;
            DataCopyExtParams copy{(uint16_t)rows, bytes, 0, gap, 0};
            DataCopyPad(bits, weights, copy, {true, 0, (uint8_t)Missing<T>(), 0});
        }
        weight_queue_.EnQue(loaded);
        return weight_queue_.template DeQue<T>();
    }

    __aicore__ inline LocalTensor<float> Widen(LocalTensor<T> values, TBuf<TPosition::VECCALC>& buffer, int32_t count) {
        if constexpr (sizeof(T) == sizeof(float)) {
            return values;
        } else {
            LocalTensor<float> wide = buffer.Get<float>();
            Cast(wide, values, RoundMode::CAST_NONE, count);
            return wide;
        }
    }

    __aicore__ inline void Multiply(LocalTensor<float> tile, int32_t i, int32_t rows) {
        LocalTensor<float> products = product_buffer_.Get<float>();
        LocalTensor<float> input = wide_input_buffer_.Get<float>()[i * kRank];
        if (pitch_ <= kRepeat) {
            int32_t repeats = rows * pitch_ / kRepeat, rest = rows * pitch_ % kRepeat, done = repeats * kRepeat;
            if (repeats > 0) Mul(products, tile, input, kRepeat, repeats, {1, 1, 1, 8, 8, 0});
            if (rest > 0) Mul(products[done], tile[done], input, rest, 1, {1, 1, 1, 8, 8, 0});
        } else {
            uint8_t stride = (uint8_t)(pitch_ / kPerBlock);
            for (int32_t part = 0; part < pitch_; part += kRepeat) {
                Mul(products[part], tile[part], input[part], kRepeat, rows, {1, 1, 1, stride, stride, 0});
            }
        }
    }

    __aicore__ inline LocalTensor<float> SumRows(int32_t rows) {
        LocalTensor<float> from = product_buffer_.Get<float>();
        LocalTensor<float> to = even_buffer_.Get<float>();
        LocalTensor<float> spare = odd_buffer_.Get<float>();
        for (int32_t width = pitch_; width > 1;) {
            int32_t repeats = rows * width / kRepeat, rest = rows * width % kRepeat, done = repeats * kRepeat;
            if (width % 8 == 0) {
                if (repeats > 0) BlockReduceSum(to, from, repeats, kRepeat, 1, 1, 8);
                if (rest > 0) BlockReduceSum(to[done / 8], from[done], 1, rest, 1, 1, 8);
                width /= 8;
            } else {
                if (repeats > 0) PairReduceSum(to, from, repeats, kRepeat, 1, 1, 8);
                if (rest > 0) PairReduceSum(to[done / 2], from[done], 1, rest, 1, 1, 8);
                width /= 2;
            }
            from = to;
            to = spare;
            spare = from;
        }
        return from;
    }

    __aicore__ inline void Store(LocalTensor<float> sums, uint64_t at, int32_t rows) {
        DataCopyExtParams copy{1, (uint32_t)(rows * sizeof(T)), 0, 0, 0};
        if (add_) {
            LocalTensor<T> old = old_queue_.template AllocTensor<T>();
            DataCopyPadExtParams<T> pad;
            pad.isPad = false;
            pad.leftPadding = 0;
            pad.rightPadding = 0;
            DataCopyPad(old, output_[at], copy, pad);
            old_queue_.EnQue(old);
            old = old_queue_.template DeQue<T>();
            Add(sums, sums, Widen(old, wide_old_buffer_, rows), rows);
            old_queue_.FreeTensor(old);
        }
        LocalTensor<T> results = new_queue_.template AllocTensor<T>();
        if constexpr (sizeof(T) == sizeof(float)) {
            Adds(results, sums, 0.0f, rows);
        } else {
            Cast(results, sums, RoundMode::CAST_RINT, rows);
        }
        new_queue_.EnQue(results);
        results = new_queue_.template DeQue<T>();
        DataCopyPad(output_[at], results, copy);
        new_queue_.FreeTensor(results);
    }

    TPipe pipe_;
    TQue<TPosition::VECIN, 1> input_queue_, weight_queue_, old_queue_;
    TQue<TPosition::VECOUT, 1> new_queue_;
    TBuf<TPosition::VECCALC> word_buffer_, table_buffer_, wide_input_buffer_, product_buffer_, even_buffer_,
        odd_buffer_, wide_weight_buffer_, wide_old_buffer_;
    GlobalTensor<int64_t> weights_, widths_, offsets_;
    GlobalTensor<T> output_;
    GlobalTensor<int32_t> loras_, order_;
    GM_ADDR inputs_address_;
    int32_t tokens_, slices_, rank_, pitch_, rows_, tiles_, output_width_;
    bool narrow_, add_, ordered_;
    int32_t token_[kTokens], lora_[kTokens];
};

}  // namespace

// inputs f32 (T if narrow) [slices, tokens, rank], per slice the address of T[adapters, width, rank], its width and its
// offset in the output, all i64, output T[tokens, output_width], loras i32[tokens], order i32[tokens] or null; a unit has
// `rows` rows of at most `tiles` tiles, rows * pitch up to 8192
extern "C" __global__ __aicore__ void lora_expand_float(GM_ADDR inputs, GM_ADDR weights, GM_ADDR widths,
                                                        GM_ADDR offsets, GM_ADDR output, GM_ADDR loras, GM_ADDR order,
                                                        int32_t tokens, int32_t slices, int32_t rank, int32_t pitch,
                                                        int32_t rows, int32_t tiles, int32_t output_width,
                                                        int32_t narrow, int32_t add) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Expand<float> expand(inputs, weights, widths, offsets, output, loras, order, tokens, slices, rank, pitch, rows,
                         tiles, output_width, narrow, add);
    expand.Run();
}

extern "C" __global__ __aicore__ void lora_expand_half(GM_ADDR inputs, GM_ADDR weights, GM_ADDR widths, GM_ADDR offsets,
                                                       GM_ADDR output, GM_ADDR loras, GM_ADDR order, int32_t tokens,
                                                       int32_t slices, int32_t rank, int32_t pitch, int32_t rows,
                                                       int32_t tiles, int32_t output_width, int32_t narrow,
                                                       int32_t add) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Expand<half> expand(inputs, weights, widths, offsets, output, loras, order, tokens, slices, rank, pitch, rows,
                        tiles, output_width, narrow, add);
    expand.Run();
}

extern "C" __global__ __aicore__ void lora_expand_bfloat16(GM_ADDR inputs, GM_ADDR weights, GM_ADDR widths,
                                                           GM_ADDR offsets, GM_ADDR output, GM_ADDR loras,
                                                           GM_ADDR order, int32_t tokens, int32_t slices, int32_t rank,
                                                           int32_t pitch, int32_t rows, int32_t tiles,
                                                           int32_t output_width, int32_t narrow, int32_t add) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Expand<bfloat16_t> expand(inputs, weights, widths, offsets, output, loras, order, tokens, slices, rank, pitch, rows,
                              tiles, output_width, narrow, add);
    expand.Run();
}

// Log-probabilities of a few tokens of each row, and the rank of the first of them, without those of the whole
// vocabulary: logprob(v) = x[v] - max - ln(sum(exp(x - max))), rank = number of tokens with x >= x[first].
// Without `normalize` the values are taken for log-probabilities as they are: logprob(v) = x[v].
//
// Blocks of the launch take rows in turn and read each once. Every tile is reduced against its own maximum; maxima and
// sums of the tiles are combined at the end of the row, so that no tile waits for the one before.
#include <type_traits>

#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kTile = 8192;
constexpr uint32_t kMaxTiles = 1024;   // of one row: 2^23 tokens, which also keeps counts exact in float
constexpr uint32_t kTokens = 512;      // tokens of a row in the unified buffer at once
constexpr uint32_t kLanes = 64;        // floats in one repeat; Compare works on whole repeats
constexpr uint32_t kBlock = 8;         // floats in 32 bytes
constexpr float kLowest = -3.0e38f;    // stands for a maximum of minus infinity, which cannot be subtracted

template <typename T>
class TokenLogprobAndRank {
public:
    __aicore__ inline TokenLogprobAndRank(GM_ADDR logits, GM_ADDR tokens, GM_ADDR logprobs, GM_ADDR ranks, int32_t rows,
                                          int32_t vocab, int32_t columns, int64_t logits_stride, int64_t token_stride,
                                          int32_t normalize)
        : rows_(rows),
          vocab_(vocab),
          columns_(columns),
          logits_stride_(logits_stride),
          token_stride_(token_stride),
          normalize_(normalize != 0) {
        logits_.SetGlobalBuffer((__gm__ T*)logits);
        tokens_.SetGlobalBuffer((__gm__ int64_t*)tokens);
        logprobs_.SetGlobalBuffer((__gm__ float*)logprobs, (uint64_t)rows * columns);
        ranks_.SetGlobalBuffer((__gm__ int64_t*)ranks, rows);
        pipe_.InitBuffer(in_queue_, 2, kTile * sizeof(T));
        pipe_.InitBuffer(token_queue_, 1, kTokens * sizeof(int64_t));
        pipe_.InitBuffer(logprob_queue_, 1, kTokens * sizeof(float));
        pipe_.InitBuffer(rank_queue_, 1, kBlock * sizeof(int32_t));
        pipe_.InitBuffer(scratch_buffer_, kTile * sizeof(float));
        pipe_.InitBuffer(one_buffer_, kTile * sizeof(float));
        pipe_.InitBuffer(bit_buffer_, kTile / 8);
        pipe_.InitBuffer(maximum_buffer_, kMaxTiles * sizeof(float));
        pipe_.InitBuffer(sum_buffer_, kMaxTiles * sizeof(float));
        pipe_.InitBuffer(count_buffer_, kMaxTiles * sizeof(float));
        pipe_.InitBuffer(work_buffer_, kTile / kLanes * 2 * sizeof(float));
        pipe_.InitBuffer(scalar_buffer_, kBlock * sizeof(float));
        if constexpr (!kIsFloat) pipe_.InitBuffer(float_buffer_, kTile * sizeof(float));
        Duplicate(one_buffer_.Get<float>(), 1.0f, kTile);
    }

    __aicore__ inline void Run() {
        for (uint32_t row = GetBlockIdx(); row < rows_; row += GetBlockNum()) {
            float first = Logit(row, tokens_.GetValue(row * token_stride_));
            uint32_t tile = 0;
            for (uint32_t begin = 0; begin < vocab_; begin += kTile, ++tile) {
                ReduceTile(row * logits_stride_ + begin, vocab_ - begin < kTile ? vocab_ - begin : kTile, tile, first);
            }
            float maximum = 0.0f, logarithm = 0.0f;
            if (normalize_) Combine(tile, &maximum, &logarithm);
            StoreRank(row, tile);
            for (uint32_t column = 0; column < columns_; column += kTokens) {
                StoreLogprobs(row, column, columns_ - column < kTokens ? columns_ - column : kTokens, maximum,
                              logarithm);
            }
        }
    }

private:
    static constexpr bool kIsFloat = std::is_same_v<T, float>;

    // The logit of one token; a token that does not exist is impossible.
    __aicore__ inline float Logit(uint64_t row, int64_t token) {
        if (token < 0 || token >= (int64_t)vocab_) return -__builtin_inff();
        T value = logits_.GetValue(row * logits_stride_ + token);
        if constexpr (std::is_same_v<T, bfloat16_t>) {
            return ToFloat(value);
        } else {
            return (float)value;
        }
    }

    __aicore__ inline void ReduceTile(uint64_t offset, uint32_t length, uint32_t tile, float first) {
        LocalTensor<T> logits = in_queue_.template AllocTensor<T>();
        DataCopyExtParams copy{1, (uint32_t)(length * sizeof(T)), 0, 0, 0};
        DataCopyPad(logits, logits_[offset], copy, {false, 0, 0, T{}});
        in_queue_.EnQue(logits);
        logits = in_queue_.template DeQue<T>();
        if constexpr (kIsFloat) {
            ReduceFloats(logits, length, tile, first);
        } else {
            LocalTensor<float> wide = float_buffer_.template Get<float>();
            Cast(wide, logits, RoundMode::CAST_NONE, length);
            ReduceFloats(wide, length, tile, first);
        }
        in_queue_.FreeTensor(logits);
    }

    __aicore__ inline void ReduceFloats(const LocalTensor<float>& values, uint32_t length, uint32_t tile, float first) {
        LocalTensor<float> scratch = scratch_buffer_.Get<float>();
        LocalTensor<float> scalar = scalar_buffer_.Get<float>();
        LocalTensor<float> work = work_buffer_.Get<float>();
        LocalTensor<uint8_t> bits = bit_buffer_.Get<uint8_t>();
        if (normalize_) ReduceMax(scalar, values, work, length);
        CompareScalar(bits, values, first, CMPMODE::GE, (length + kLanes - 1) / kLanes * kLanes);
        Select(scratch, bits, one_buffer_.Get<float>(), 0.0f, SELMODE::VSEL_TENSOR_SCALAR_MODE, length);
        ReduceSum(count_buffer_.Get<float>()[tile], scratch, work, length);
        if (!normalize_) return;
        float maximum = scalar.GetValue(0);
        if (maximum < kLowest) maximum = kLowest;
        maximum_buffer_.Get<float>().SetValue(tile, maximum);
        Adds(scratch, values, -maximum, length);
        Exp(scratch, scratch, length);
        ReduceSum(sum_buffer_.Get<float>()[tile], scratch, work, length);
    }

    // Maximum of the row, and the logarithm of the sum of exp(x - maximum).
    __aicore__ inline void Combine(uint32_t tiles, float* maximum, float* logarithm) {
        LocalTensor<float> scalar = scalar_buffer_.Get<float>();
        LocalTensor<float> work = work_buffer_.Get<float>();
        LocalTensor<float> maxima = maximum_buffer_.Get<float>();
        LocalTensor<float> sums = sum_buffer_.Get<float>();
        ReduceMax(scalar, maxima, work, tiles);
        *maximum = scalar.GetValue(0);
        Adds(maxima, maxima, -*maximum, tiles);
        Exp(maxima, maxima, tiles);
        Mul(sums, sums, maxima, tiles);
        ReduceSum(scalar, sums, work, tiles);
        Ln(scalar, scalar, 1);
        *logarithm = scalar.GetValue(0);
    }

    __aicore__ inline void StoreRank(uint64_t row, uint32_t tiles) {
        LocalTensor<float> scalar = scalar_buffer_.Get<float>();
        ReduceSum(scalar, count_buffer_.Get<float>(), work_buffer_.Get<float>(), tiles);
        LocalTensor<int32_t> rank = rank_queue_.AllocTensor<int32_t>();
        // An int64 below 2^31 is its low half and a zero.
        Duplicate(rank, 0, kBlock);
        rank.SetValue(0, (int32_t)scalar.GetValue(0));
        rank_queue_.EnQue(rank);
        rank = rank_queue_.DeQue<int32_t>();
        DataCopyExtParams copy{1, sizeof(int64_t), 0, 0, 0};
        DataCopyPad(ranks_[row], rank.ReinterpretCast<int64_t>(), copy);
        rank_queue_.FreeTensor(rank);
    }

    __aicore__ inline void StoreLogprobs(uint64_t row, uint32_t column, uint32_t count, float maximum,
                                         float logarithm) {
        LocalTensor<int64_t> tokens = token_queue_.AllocTensor<int64_t>();
        DataCopyExtParams copy_tokens{1, (uint32_t)(count * sizeof(int64_t)), 0, 0, 0};
        DataCopyPad(tokens, tokens_[row * token_stride_ + column], copy_tokens, {false, 0, 0, 0});
        token_queue_.EnQue(tokens);
        tokens = token_queue_.DeQue<int64_t>();
        LocalTensor<float> logprobs = logprob_queue_.AllocTensor<float>();
        for (uint32_t i = 0; i < count; ++i) {
            logprobs.SetValue(i, Logit(row, tokens.GetValue(i)) - maximum - logarithm);
        }
        token_queue_.FreeTensor(tokens);
        logprob_queue_.EnQue(logprobs);
        logprobs = logprob_queue_.DeQue<float>();
        DataCopyExtParams copy{1, (uint32_t)(count * sizeof(float)), 0, 0, 0};
        DataCopyPad(logprobs_[row * columns_ + column], logprobs, copy);
        logprob_queue_.FreeTensor(logprobs);
    }

    TPipe pipe_;
    TQue<TPosition::VECIN, 1> in_queue_, token_queue_;
    TQue<TPosition::VECOUT, 1> logprob_queue_, rank_queue_;
    TBuf<TPosition::VECCALC> scratch_buffer_, one_buffer_, bit_buffer_, maximum_buffer_, sum_buffer_, count_buffer_,
        work_buffer_, scalar_buffer_, float_buffer_;
    GlobalTensor<T> logits_;
    GlobalTensor<int64_t> tokens_, ranks_;
    GlobalTensor<float> logprobs_;
    uint32_t rows_, vocab_, columns_;
    uint64_t logits_stride_, token_stride_;
    bool normalize_;
};

}  // namespace

// logits T[rows, vocab] and tokens i64[rows, columns] with rows logits_stride and token_stride elements apart, logprobs
// f32[rows, columns], ranks i64[rows]; rows, vocab and columns are at least 1; normalize is 0 or 1.
extern "C" __global__ __aicore__ void token_logprob_and_rank_float(GM_ADDR logits, GM_ADDR tokens, GM_ADDR logprobs,
                                                                   GM_ADDR ranks, int32_t rows, int32_t vocab,
                                                                   int32_t columns, int64_t logits_stride,
                                                                   int64_t token_stride, int32_t normalize) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    TokenLogprobAndRank<float>(logits, tokens, logprobs, ranks, rows, vocab, columns, logits_stride, token_stride,
                               normalize)
        .Run();
}

extern "C" __global__ __aicore__ void token_logprob_and_rank_half(GM_ADDR logits, GM_ADDR tokens, GM_ADDR logprobs,
                                                                  GM_ADDR ranks, int32_t rows, int32_t vocab,
                                                                  int32_t columns, int64_t logits_stride,
                                                                  int64_t token_stride, int32_t normalize) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    TokenLogprobAndRank<half>(logits, tokens, logprobs, ranks, rows, vocab, columns, logits_stride, token_stride,
                              normalize)
        .Run();
}

extern "C" __global__ __aicore__ void token_logprob_and_rank_bfloat16(GM_ADDR logits, GM_ADDR tokens, GM_ADDR logprobs,
                                                                      GM_ADDR ranks, int32_t rows, int32_t vocab,
                                                                      int32_t columns, int64_t logits_stride,
                                                                      int64_t token_stride, int32_t normalize) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    TokenLogprobAndRank<bfloat16_t>(logits, tokens, logprobs, ranks, rows, vocab, columns, logits_stride, token_stride,
                                    normalize)
        .Run();
}

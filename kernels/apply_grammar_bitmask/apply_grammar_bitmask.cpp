// Tokens that a grammar forbids get minus infinity. Bit v % 32 of word v / 32 in a row of the bitmask says whether token
// v may follow: exactly the packed mask that Select takes.
//
// Blocks of the launch take (row, tile of the vocabulary) units in turn. Select has no bfloat16, so those go through
// float, which changes none of their values.
#include <type_traits>

#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kTile = 8192;  // tokens of one unit; a multiple of the 32 in a word
constexpr uint32_t kWordBits = 32;

template <typename T>
class GrammarBitmask {
public:
    __aicore__ inline GrammarBitmask(GM_ADDR logits, GM_ADDR bitmask, GM_ADDR indices, int32_t rows, int32_t vocab,
                                     int64_t logits_stride, int64_t bitmask_stride)
        : rows_(rows), vocab_(vocab), logits_stride_(logits_stride), bitmask_stride_(bitmask_stride),
          indexed_(indices != nullptr) {
        logits_.SetGlobalBuffer((__gm__ T*)logits);
        bitmask_.SetGlobalBuffer((__gm__ int32_t*)bitmask);
        if (indexed_) indices_.SetGlobalBuffer((__gm__ int32_t*)indices, rows);
        pipe_.InitBuffer(in_queue_, 2, kTile * sizeof(T));
        pipe_.InitBuffer(mask_queue_, 2, kTile / 8);
        pipe_.InitBuffer(out_queue_, 2, kTile * sizeof(T));
        if constexpr (kThroughFloat) pipe_.InitBuffer(float_buffer_, kTile * sizeof(float));
    }

    __aicore__ inline void Run() {
        uint32_t tiles = (vocab_ + kTile - 1) / kTile;
        for (uint32_t unit = GetBlockIdx(); unit < rows_ * tiles; unit += GetBlockNum()) {
            uint32_t row = unit / tiles, first = unit % tiles * kTile;
            if (indexed_) row = indices_.GetValue(row);
            Unit(row, first, vocab_ - first < kTile ? vocab_ - first : kTile);
        }
    }

private:
    static constexpr bool kThroughFloat = std::is_same_v<T, bfloat16_t>;

    __aicore__ inline void Unit(uint64_t row, uint32_t first, uint32_t length) {
        uint64_t offset = row * logits_stride_ + first;
        LocalTensor<T> logits = in_queue_.template AllocTensor<T>();
        DataCopyExtParams copy{1, (uint32_t)(length * sizeof(T)), 0, 0, 0};
        DataCopyPad(logits, logits_[offset], copy, {false, 0, 0, T{}});
        in_queue_.EnQue(logits);
        uint32_t words = (length + kWordBits - 1) / kWordBits;
        LocalTensor<int32_t> mask = mask_queue_.template AllocTensor<int32_t>();
        DataCopyExtParams copy_mask{1, (uint32_t)(words * sizeof(int32_t)), 0, 0, 0};
        DataCopyPad(mask, bitmask_[row * bitmask_stride_ + first / kWordBits], copy_mask, {false, 0, 0, 0});
        mask_queue_.EnQue(mask);

        logits = in_queue_.template DeQue<T>();
        mask = mask_queue_.template DeQue<int32_t>();
        LocalTensor<T> masked = out_queue_.template AllocTensor<T>();
        LocalTensor<uint8_t> bits = mask.ReinterpretCast<uint8_t>();
        const float forbidden = -__builtin_inff();
        if constexpr (kThroughFloat) {
            LocalTensor<float> wide = float_buffer_.template Get<float>();
            Cast(wide, logits, RoundMode::CAST_NONE, length);
            Select(wide, bits, wide, forbidden, SELMODE::VSEL_TENSOR_SCALAR_MODE, length);
            Cast(masked, wide, RoundMode::CAST_RINT, length);
        } else {
            Select(masked, bits, logits, (T)forbidden, SELMODE::VSEL_TENSOR_SCALAR_MODE, length);
        }
        in_queue_.FreeTensor(logits);
        mask_queue_.FreeTensor(mask);
        out_queue_.EnQue(masked);
        masked = out_queue_.template DeQue<T>();
        DataCopyPad(logits_[offset], masked, copy);
        out_queue_.FreeTensor(masked);
    }

    TPipe pipe_;
    TQue<TPosition::VECIN, 1> in_queue_, mask_queue_;
    TQue<TPosition::VECOUT, 1> out_queue_;
    TBuf<TPosition::VECCALC> float_buffer_;
    GlobalTensor<T> logits_;
    GlobalTensor<int32_t> bitmask_, indices_;
    uint32_t rows_, vocab_;
    uint64_t logits_stride_, bitmask_stride_;
    bool indexed_;
};

}  // namespace

// logits T[.., vocab] and bitmask i32[.., vocab / 32 rounded up] with rows logits_stride and bitmask_stride elements
// apart; indices i32[rows] or null for the first `rows` rows.
extern "C" __global__ __aicore__ void apply_grammar_bitmask_float(GM_ADDR logits, GM_ADDR bitmask, GM_ADDR indices,
                                                                  int32_t rows, int32_t vocab, int64_t logits_stride,
                                                                  int64_t bitmask_stride) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    GrammarBitmask<float>(logits, bitmask, indices, rows, vocab, logits_stride, bitmask_stride).Run();
}

extern "C" __global__ __aicore__ void apply_grammar_bitmask_half(GM_ADDR logits, GM_ADDR bitmask, GM_ADDR indices,
                                                                 int32_t rows, int32_t vocab, int64_t logits_stride,
                                                                 int64_t bitmask_stride) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    GrammarBitmask<half>(logits, bitmask, indices, rows, vocab, logits_stride, bitmask_stride).Run();
}

extern "C" __global__ __aicore__ void apply_grammar_bitmask_bfloat16(GM_ADDR logits, GM_ADDR bitmask, GM_ADDR indices,
                                                                     int32_t rows, int32_t vocab,
                                                                     int64_t logits_stride, int64_t bitmask_stride) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    GrammarBitmask<bfloat16_t>(logits, bitmask, indices, rows, vocab, logits_stride, bitmask_stride).Run();
}

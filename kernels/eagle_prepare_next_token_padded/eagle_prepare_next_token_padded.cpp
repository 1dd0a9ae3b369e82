// For each request: how many sampled tokens are valid, and the last valid one, from which drafting goes on.
//
// Requests lie along the vector, sampled tokens are columns gathered one after another. A token is valid when it is neither
// negative nor beyond the vocabulary; int32 can only be compared for equality, so both tests are clamped differences that
// are 0 or 1, and a choice is a product. A request that is discarded, or has no valid token, gets its backup token.
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kTile = 256;           // requests of one unit at most
constexpr uint32_t kRowBytes = 64 * 1024;  // of sampled tokens in the unified buffer

class NextToken {
public:
    __aicore__ inline NextToken(GM_ADDR sampled, GM_ADDR discard, GM_ADDR backup, GM_ADDR next, GM_ADDR counts,
                                int32_t requests, int32_t columns, int32_t row_stride, int32_t vocabulary)
        : requests_(requests), columns_(columns), row_stride_(row_stride), vocabulary_(vocabulary) {
        sampled_.SetGlobalBuffer((__gm__ int32_t*)sampled, (uint64_t)(requests - 1) * row_stride + columns);
        discard_.SetGlobalBuffer((__gm__ uint8_t*)discard, requests);
        backup_.SetGlobalBuffer((__gm__ int32_t*)backup, requests);
        next_.SetGlobalBuffer((__gm__ int32_t*)next, requests);
        counts_.SetGlobalBuffer((__gm__ int32_t*)counts, requests);
        // Rows that are not next to each other are loaded one by one, and each starts on 32 bytes.
        uint32_t bytes = columns * sizeof(int32_t);
        pitch_ = row_stride == columns ? bytes : (bytes + 31) / 32 * 32;
        tile_ = kRowBytes / pitch_ < kTile ? kRowBytes / pitch_ : kTile;
        pipe_.InitBuffer(row_queue_, 1, kRowBytes);
        pipe_.InitBuffer(discard_queue_, 1, kTile);
        pipe_.InitBuffer(backup_queue_, 1, kTile * sizeof(int32_t));
        pipe_.InitBuffer(next_queue_, 1, kTile * sizeof(int32_t));
        pipe_.InitBuffer(count_queue_, 1, kTile * sizeof(int32_t));
        pipe_.InitBuffer(offset_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(token_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(valid_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(work_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(kept_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(half_buffer_, kTile * sizeof(half));
    }

    __aicore__ inline void Run() {
        LocalTensor<int32_t> offsets = offset_buffer_.Get<int32_t>();
        CreateVecIndex(offsets, 0, tile_);
        Muls(offsets, offsets, (int32_t)pitch_, tile_);
        int32_t step = (int32_t)(GetBlockNum() * tile_);
        for (int32_t first = (int32_t)(GetBlockIdx() * tile_); first < requests_; first += step) {
            uint32_t length = requests_ - first < (int32_t)tile_ ? requests_ - first : tile_;
            Load(first, length);
            Compute(first, length);
        }
    }

private:
    __aicore__ inline void Load(int32_t first, uint32_t length) {
        LocalTensor<int32_t> rows = row_queue_.AllocTensor<int32_t>();
        uint32_t bytes = columns_ * sizeof(int32_t);
        uint64_t begin = (uint64_t)first * row_stride_;
        if (row_stride_ == columns_) {
            DataCopyExtParams copy{1, length * bytes, 0, 0, 0};
            DataCopyPad(rows, sampled_[begin], copy, {false, 0, 0, 0});
        } else {
            DataCopyExtParams copy{(uint16_t)length, bytes, (uint32_t)(row_stride_ * sizeof(int32_t)) - bytes, 0, 0};
            DataCopyPad(rows, sampled_[begin], copy, {false, 0, 0, 0});
        }
        row_queue_.EnQue(rows);

        LocalTensor<uint8_t> discard = discard_queue_.AllocTensor<uint8_t>();
        DataCopyExtParams flags{1, length, 0, 0, 0};
        DataCopyPad(discard, discard_[first], flags, {false, 0, 0, 0});
        discard_queue_.EnQue(discard);

        LocalTensor<int32_t> backup = backup_queue_.AllocTensor<int32_t>();
        DataCopyExtParams tokens{1, (uint32_t)(length * sizeof(int32_t)), 0, 0, 0};
        DataCopyPad(backup, backup_[first], tokens, {false, 0, 0, 0});
        backup_queue_.EnQue(backup);
    }

    __aicore__ inline void Compute(int32_t first, uint32_t length) {
        LocalTensor<int32_t> rows = row_queue_.DeQue<int32_t>();
        LocalTensor<uint8_t> discard = discard_queue_.DeQue<uint8_t>();
        LocalTensor<int32_t> backup = backup_queue_.DeQue<int32_t>();
        LocalTensor<int32_t> next = next_queue_.AllocTensor<int32_t>();
        LocalTensor<int32_t> counts = count_queue_.AllocTensor<int32_t>();
        LocalTensor<int32_t> offsets = offset_buffer_.Get<int32_t>();
        LocalTensor<int32_t> tokens = token_buffer_.Get<int32_t>();
        LocalTensor<int32_t> valid = valid_buffer_.Get<int32_t>();
        LocalTensor<int32_t> work = work_buffer_.Get<int32_t>();
        LocalTensor<int32_t> kept = kept_buffer_.Get<int32_t>();

        // kept = 1 - discard
        LocalTensor<half> halves = half_buffer_.Get<half>();
        Cast(halves, discard, RoundMode::CAST_NONE, length);
        Cast(kept, halves, RoundMode::CAST_RINT, length);
        Muls(kept, kept, -1, length);
        Adds(kept, kept, 1, length);

        Adds(next, backup, 0, length);
        Duplicate(counts, 0, length);
        for (int32_t column = 0; column < columns_; ++column) {
            Gather(tokens, rows, offsets.ReinterpretCast<uint32_t>(), column * sizeof(int32_t), length);
            // What is below 0 or above the vocabulary size is not told apart, and no difference may overflow.
            Maxs(tokens, tokens, -1, length);
            Mins(tokens, tokens, vocabulary_, length);
            // valid = min(token + 1, 1) * min(vocabulary - token, 1)
            Adds(valid, tokens, 1, length);
            Mins(valid, valid, 1, length);
            Muls(work, tokens, -1, length);
            Adds(work, work, vocabulary_, length);
            Mins(work, work, 1, length);
            Mul(valid, valid, work, length);
            Mul(valid, valid, kept, length);
            Add(counts, counts, valid, length);
            // next = valid ? token : next
            Sub(work, tokens, next, length);
            Mul(work, work, valid, length);
            Add(next, next, work, length);
        }
        row_queue_.FreeTensor(rows);
        discard_queue_.FreeTensor(discard);
        backup_queue_.FreeTensor(backup);
        Store(next_queue_, next_, next, first, length);
        Store(count_queue_, counts_, counts, first, length);
    }

    __aicore__ inline void Store(TQue<TPosition::VECOUT, 1>& queue, const GlobalTensor<int32_t>& to,
                                 LocalTensor<int32_t> values, int32_t first, uint32_t length) {
        queue.EnQue(values);
        values = queue.DeQue<int32_t>();
        DataCopyExtParams copy{1, (uint32_t)(length * sizeof(int32_t)), 0, 0, 0};
        DataCopyPad(to[first], values, copy);
        queue.FreeTensor(values);
    }

    TPipe pipe_;
    TQue<TPosition::VECIN, 1> row_queue_, discard_queue_, backup_queue_;
    TQue<TPosition::VECOUT, 1> next_queue_, count_queue_;
    TBuf<TPosition::VECCALC> offset_buffer_, token_buffer_, valid_buffer_, work_buffer_, kept_buffer_, half_buffer_;
    GlobalTensor<int32_t> sampled_, backup_, next_, counts_;
    GlobalTensor<uint8_t> discard_;
    int32_t requests_, columns_, row_stride_, vocabulary_;
    uint32_t pitch_, tile_;
};

}  // namespace

// sampled i32[requests, columns] with rows row_stride apart, discard bool[requests], backup i32[requests],
// next i32[requests], counts i32[requests]
extern "C" __global__ __aicore__ void eagle_prepare_next_token_padded(GM_ADDR sampled, GM_ADDR discard, GM_ADDR backup,
                                                                      GM_ADDR next, GM_ADDR counts, int32_t requests,
                                                                      int32_t columns, int32_t row_stride,
                                                                      int32_t vocabulary) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    NextToken token(sampled, discard, backup, next, counts, requests, columns, row_stride, vocabulary);
    token.Run();
}

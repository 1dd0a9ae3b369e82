// Row of each token id in one rank's part of the embedding table, and whether the id belongs to another rank.
//
// A rank owns ids [org_start, org_end) and [added_start, added_end). An id x is in a range when clamping it to the range
// leaves it as it is: int32 can only be compared for equality, and clamping cannot overflow where subtraction can. int64
// exists on the vector unit only as the end of a Cast, which saturates: what does not fit is in no range.
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kTile = 2048;  // ids of one unit; a multiple of the 64 that Compare needs

template <typename T>
class MaskedIndex {
public:
    __aicore__ inline MaskedIndex(GM_ADDR ids, GM_ADDR rows, GM_ADDR foreign, int32_t count) : count_(count) {
        ids_.SetGlobalBuffer((__gm__ T*)ids, count);
        rows_.SetGlobalBuffer((__gm__ int64_t*)rows, count);
        foreign_.SetGlobalBuffer((__gm__ uint8_t*)foreign, count);
        pipe_.InitBuffer(id_queue_, 2, kTile * sizeof(T));
        pipe_.InitBuffer(row_queue_, 2, kTile * sizeof(int64_t));
        pipe_.InitBuffer(foreign_queue_, 2, kTile);
        pipe_.InitBuffer(narrow_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(clamped_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(shifted_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(index_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(outside_buffer_, kTile * sizeof(half));
        pipe_.InitBuffer(zero_buffer_, kTile * sizeof(half));
        pipe_.InitBuffer(bit_buffer_, kTile / 8);
    }

    __aicore__ inline void Run(int32_t org_start, int32_t org_end, int32_t added_start, int32_t added_end,
                               int32_t added_offset) {
        Duplicate(zero_buffer_.Get<half>(), (half)0.0f, kTile);
        int32_t step = (int32_t)(GetBlockNum() * kTile);
        for (int32_t first = (int32_t)(GetBlockIdx() * kTile); first < count_; first += step) {
            uint32_t length = count_ - first < (int32_t)kTile ? count_ - first : kTile;
            LocalTensor<T> loaded = id_queue_.template AllocTensor<T>();
            DataCopyExtParams copy{1, (uint32_t)(length * sizeof(T)), 0, 0, 0};
            DataCopyPad(loaded, ids_[first], copy, {false, 0, 0, 0});
            id_queue_.EnQue(loaded);
            loaded = id_queue_.template DeQue<T>();

            LocalTensor<int32_t> ids = narrow_buffer_.Get<int32_t>();
            if constexpr (sizeof(T) == sizeof(int64_t)) {
                Cast(ids, loaded, RoundMode::CAST_NONE, length);
            } else {
                Adds(ids, loaded, 0, length);
            }
            id_queue_.FreeTensor(loaded);

            LocalTensor<int32_t> index = index_buffer_.Get<int32_t>();
            LocalTensor<half> outside = outside_buffer_.Get<half>();
            Duplicate(index, 0, length);
            Duplicate(outside, (half)1.0f, length);
            // An empty range cannot be clamped to.
            if (org_start < org_end) Take(ids, org_start, org_end, org_start, length);
            if (added_start < added_end) Take(ids, added_start, added_end, added_offset, length);
            Store(index, outside, first, length);
        }
    }

private:
    // index = id - offset, outside = 0, for the ids in [start, end); the others stay as they are.
    __aicore__ inline void Take(LocalTensor<int32_t> ids, int32_t start, int32_t end, int32_t offset, uint32_t length) {
        LocalTensor<int32_t> clamped = clamped_buffer_.Get<int32_t>();
        LocalTensor<int32_t> shifted = shifted_buffer_.Get<int32_t>();
        LocalTensor<int32_t> index = index_buffer_.Get<int32_t>();
        LocalTensor<half> outside = outside_buffer_.Get<half>();
        LocalTensor<uint8_t> bits = bit_buffer_.Get<uint8_t>();
        Maxs(clamped, ids, start, length);
        Mins(clamped, clamped, end - 1, length);
        // Whole repeats; the bits behind `length` are not used.
        Compare(bits, ids, clamped, CMPMODE::EQ, (length + 63) / 64 * 64);
        // Clamped ids, because the difference of any other could overflow.
        Adds(shifted, clamped, -offset, length);
        Select(index.ReinterpretCast<float>(), bits, shifted.ReinterpretCast<float>(), index.ReinterpretCast<float>(),
               SELMODE::VSEL_TENSOR_TENSOR_MODE, length);
        Select(outside, bits, zero_buffer_.Get<half>(), outside, SELMODE::VSEL_TENSOR_TENSOR_MODE, length);
    }

    __aicore__ inline void Store(LocalTensor<int32_t> index, LocalTensor<half> outside, int32_t first, uint32_t length) {
        LocalTensor<int64_t> rows = row_queue_.AllocTensor<int64_t>();
        LocalTensor<uint8_t> foreign = foreign_queue_.AllocTensor<uint8_t>();
        Cast(rows, index, RoundMode::CAST_NONE, length);
        Cast(foreign, outside, RoundMode::CAST_NONE, length);
        row_queue_.EnQue(rows);
        foreign_queue_.EnQue(foreign);
        rows = row_queue_.DeQue<int64_t>();
        foreign = foreign_queue_.DeQue<uint8_t>();
        DataCopyExtParams row_copy{1, (uint32_t)(length * sizeof(int64_t)), 0, 0, 0};
        DataCopyExtParams foreign_copy{1, length, 0, 0, 0};
        DataCopyPad(rows_[first], rows, row_copy);
        DataCopyPad(foreign_[first], foreign, foreign_copy);
        row_queue_.FreeTensor(rows);
        foreign_queue_.FreeTensor(foreign);
    }

    TPipe pipe_;
    TQue<TPosition::VECIN, 1> id_queue_;
    TQue<TPosition::VECOUT, 1> row_queue_, foreign_queue_;
    TBuf<TPosition::VECCALC> narrow_buffer_, clamped_buffer_, shifted_buffer_, index_buffer_, outside_buffer_,
        zero_buffer_, bit_buffer_;
    GlobalTensor<T> ids_;
    GlobalTensor<int64_t> rows_;
    GlobalTensor<uint8_t> foreign_;
    int32_t count_;
};

}  // namespace

// ids i32 or i64[count], rows i64[count], foreign bool[count]; added_offset is subtracted from ids of the added range.
extern "C" __global__ __aicore__ void masked_vocabulary_index_int32(GM_ADDR ids, GM_ADDR rows, GM_ADDR foreign,
                                                                    int32_t count, int32_t org_start, int32_t org_end,
                                                                    int32_t added_start, int32_t added_end,
                                                                    int32_t added_offset) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    MaskedIndex<int32_t> index(ids, rows, foreign, count);
    index.Run(org_start, org_end, added_start, added_end, added_offset);
}

extern "C" __global__ __aicore__ void masked_vocabulary_index_int64(GM_ADDR ids, GM_ADDR rows, GM_ADDR foreign,
                                                                    int32_t count, int32_t org_start, int32_t org_end,
                                                                    int32_t added_start, int32_t added_end,
                                                                    int32_t added_offset) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    MaskedIndex<int64_t> index(ids, rows, foreign, count);
    index.Run(org_start, org_end, added_start, added_end, added_offset);
}

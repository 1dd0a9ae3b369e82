// Slot of each token in the paged KV cache: block_table[request, position / block] * block + position % block.
//
// Blocks of the launch take (request, tile of its tokens) units in turn. A unit loads its positions, finds the range of
// block table columns they need, loads those in windows and gathers from them; int64 exists on the vector unit only as
// the end of a Cast, so everything between is int32. Float is exact here: a column number is far below 2^24.
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kTile = 2048;    // tokens of one unit
constexpr uint32_t kWindow = 4096;  // block table columns in the unified buffer at once
constexpr uint32_t kStarts = 1024;  // requests whose first tokens are in the unified buffer at once
constexpr int32_t kPadding = -1;    // the slot of a token that does not exist

class SlotMapping {
public:
    __aicore__ inline SlotMapping(GM_ADDR query_start_loc, GM_ADDR positions, GM_ADDR block_table, GM_ADDR slot_mapping,
                                  int32_t requests, int32_t tokens, int32_t capacity, int32_t row_stride, int32_t shift)
        : requests_(requests), tokens_(tokens), capacity_(capacity), row_stride_(row_stride), shift_(shift) {
        starts_.SetGlobalBuffer((__gm__ int32_t*)query_start_loc, requests + 1);
        positions_.SetGlobalBuffer((__gm__ int64_t*)positions, tokens);
        table_.SetGlobalBuffer((__gm__ int32_t*)block_table, (uint64_t)requests * row_stride);
        slots_.SetGlobalBuffer((__gm__ int64_t*)slot_mapping, capacity);
        pipe_.InitBuffer(start_queue_, 1, (kStarts + 1) * sizeof(int32_t));
        pipe_.InitBuffer(position_queue_, 2, kTile * sizeof(int64_t));
        pipe_.InitBuffer(window_queue_, 1, kWindow * sizeof(int32_t));
        pipe_.InitBuffer(slot_queue_, 2, kTile * sizeof(int64_t));
        pipe_.InitBuffer(column_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(column_float_buffer_, kTile * sizeof(float));
        pipe_.InitBuffer(offset_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(gathered_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(block_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(work_buffer_, kTile * sizeof(float));
        pipe_.InitBuffer(extreme_buffer_, 64);
        pipe_.InitBuffer(mask_buffer_, kTile / 8);
    }

    __aicore__ inline void Run() {
        uint32_t unit = 0;
        for (int32_t first = 0; first < requests_; first += kStarts) {
            int32_t count = requests_ - first < (int32_t)kStarts ? requests_ - first : (int32_t)kStarts;
            LocalTensor<int32_t> starts = start_queue_.AllocTensor<int32_t>();
            DataCopyExtParams copy{1, (uint32_t)((count + 1) * sizeof(int32_t)), 0, 0, 0};
            DataCopyPad(starts, starts_[first], copy, {false, 0, 0, 0});
            start_queue_.EnQue(starts);
            starts = start_queue_.DeQue<int32_t>();
            for (int32_t i = 0; i < count; ++i) {
                int32_t begin = starts.GetValue(i);
                int32_t end = starts.GetValue(i + 1);
                for (int32_t token = begin; token < end; token += kTile) {
                    if (unit++ % GetBlockNum() != GetBlockIdx()) continue;
                    uint32_t length = end - token < (int32_t)kTile ? end - token : kTile;
                    Unit(first + i, token, length);
                }
            }
            start_queue_.FreeTensor(starts);
        }
        for (int32_t token = tokens_; token < capacity_; token += kTile) {
            if (unit++ % GetBlockNum() != GetBlockIdx()) continue;
            uint32_t length = capacity_ - token < (int32_t)kTile ? capacity_ - token : kTile;
            LocalTensor<int64_t> slots = slot_queue_.AllocTensor<int64_t>();
            // Both halves of an int64 -1 are an int32 -1.
            Duplicate(slots.ReinterpretCast<int32_t>(), kPadding, length * 2);
            Store(slots, token, length);
        }
    }

private:
    __aicore__ inline void Unit(int32_t request, int32_t token, uint32_t length) {
        LocalTensor<int64_t> positions = position_queue_.AllocTensor<int64_t>();
        DataCopyExtParams copy{1, (uint32_t)(length * sizeof(int64_t)), 0, 0, 0};
        DataCopyPad(positions, positions_[token], copy, {false, 0, 0, 0});
        position_queue_.EnQue(positions);
        positions = position_queue_.DeQue<int64_t>();

        LocalTensor<int32_t> columns = column_buffer_.Get<int32_t>();
        LocalTensor<float> column_floats = column_float_buffer_.Get<float>();
        LocalTensor<int32_t> offsets = offset_buffer_.Get<int32_t>();
        LocalTensor<int32_t> blocks = block_buffer_.Get<int32_t>();
        Cast(offsets, positions, RoundMode::CAST_NONE, length);
        position_queue_.FreeTensor(positions);
        ShiftRight(columns, offsets, shift_, length);
        Cast(column_floats, columns, RoundMode::CAST_NONE, length);
        // offsets = position % block
        ShiftLeft(blocks, columns, shift_, length);
        Sub(offsets, offsets, blocks, length);

        LocalTensor<float> work = work_buffer_.Get<float>();
        LocalTensor<float> extremes = extreme_buffer_.Get<float>();
        ReduceMin(extremes, column_floats, work, length);
        ReduceMax(extremes[8], column_floats, work, length);
        uint32_t low = (uint32_t)extremes.GetValue(0);
        uint32_t high = (uint32_t)extremes.GetValue(8);
        for (uint32_t window = low; window <= high; window += kWindow) {
            uint32_t width = high - window + 1 < kWindow ? high - window + 1 : kWindow;
            Lookup(request, window, width, window == low, length);
        }

        LocalTensor<int64_t> slots = slot_queue_.AllocTensor<int64_t>();
        ShiftLeft(blocks, blocks, shift_, length);
        Add(offsets, offsets, blocks, length);
        Cast(slots, offsets, RoundMode::CAST_NONE, length);
        Store(slots, token, length);
    }

    // blocks = the block numbers of columns window and up; an earlier window's result stays for smaller columns.
    __aicore__ inline void Lookup(int32_t request, uint32_t window, uint32_t width, bool first, uint32_t length) {
        LocalTensor<int32_t> row = window_queue_.AllocTensor<int32_t>();
        DataCopyExtParams copy{1, (uint32_t)(width * sizeof(int32_t)), 0, 0, 0};
        DataCopyPad(row, table_[(uint64_t)request * row_stride_ + window], copy, {false, 0, 0, 0});
        window_queue_.EnQue(row);
        row = window_queue_.DeQue<int32_t>();

        LocalTensor<int32_t> columns = column_buffer_.Get<int32_t>();
        LocalTensor<int32_t> bytes = work_buffer_.Get<int32_t>();
        LocalTensor<int32_t> blocks = block_buffer_.Get<int32_t>();
        Adds(bytes, columns, -(int32_t)window, length);
        Maxs(bytes, bytes, 0, length);
        Mins(bytes, bytes, (int32_t)width - 1, length);
        ShiftLeft(bytes, bytes, 2, length);
        if (first) {
            Gather(blocks, row, bytes.ReinterpretCast<uint32_t>(), 0, length);
        } else {
            LocalTensor<int32_t> gathered = gathered_buffer_.Get<int32_t>();
            LocalTensor<uint8_t> mask = mask_buffer_.Get<uint8_t>();
            Gather(gathered, row, bytes.ReinterpretCast<uint32_t>(), 0, length);
            // Compares works on whole repeats of 64 floats; the bits behind `length` are not used.
            CompareScalar(mask, column_float_buffer_.Get<float>(), (float)window, CMPMODE::GE,
                          (length + 63) / 64 * 64);
            Select(blocks.ReinterpretCast<float>(), mask, gathered.ReinterpretCast<float>(),
                   blocks.ReinterpretCast<float>(), SELMODE::VSEL_TENSOR_TENSOR_MODE, length);
        }
        window_queue_.FreeTensor(row);
    }

    __aicore__ inline void Store(LocalTensor<int64_t> slots, int32_t token, uint32_t length) {
        slot_queue_.EnQue(slots);
        slots = slot_queue_.DeQue<int64_t>();
        DataCopyExtParams copy{1, (uint32_t)(length * sizeof(int64_t)), 0, 0, 0};
        DataCopyPad(slots_[token], slots, copy);
        slot_queue_.FreeTensor(slots);
    }

    TPipe pipe_;
    TQue<TPosition::VECIN, 1> start_queue_, position_queue_, window_queue_;
    TQue<TPosition::VECOUT, 1> slot_queue_;
    TBuf<TPosition::VECCALC> column_buffer_, column_float_buffer_, offset_buffer_, gathered_buffer_, block_buffer_,
        work_buffer_, extreme_buffer_, mask_buffer_;
    GlobalTensor<int32_t> starts_, table_;
    GlobalTensor<int64_t> positions_, slots_;
    int32_t requests_, tokens_, capacity_, row_stride_, shift_;
};

}  // namespace

// query_start_loc i32[requests + 1], positions i64[tokens], block_table i32[requests, row_stride],
// slot_mapping i64[capacity]; a cache block holds 2^shift tokens.
extern "C" __global__ __aicore__ void compute_slot_mapping(GM_ADDR query_start_loc, GM_ADDR positions,
                                                           GM_ADDR block_table, GM_ADDR slot_mapping, int32_t requests,
                                                           int32_t tokens, int32_t capacity, int32_t row_stride,
                                                           int32_t shift) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    SlotMapping mapping(query_start_loc, positions, block_table, slot_mapping, requests, tokens, capacity, row_stride,
                        shift);
    mapping.Run();
}

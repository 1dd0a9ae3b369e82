// One autoregressive draft step: every request's position and sequence length grow by one, and its new token's cache
// slot is looked up. A request at the model's maximum length starts over at position 0, writes no cache and has length 1.
//
// Each request needs one 4-byte word of its own block table row, so a unit is few requests, each with a transfer of its
// own, and scalars do the arithmetic: they divide by any block size and have int64.
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr int32_t kTile = 32;      // requests of one unit
constexpr int32_t kPadding = -1;   // the slot of a token that is not written
constexpr int32_t kPerBlock = 8;   // int32 in the 32 bytes where a transfer may start

template <HardEvent event>
__aicore__ inline void Order() {
    int32_t id = (int32_t)GetTPipePtr()->FetchEventID(event);
    SetFlag<event>(id);
    WaitFlag<event>(id);
}

class Step {
public:
    __aicore__ inline Step(GM_ADDR positions, GM_ADDR block_table, GM_ADDR seq_lens, GM_ADDR new_positions,
                           GM_ADDR slots, int32_t requests, int32_t padded, int32_t columns, int32_t row_stride,
                           int32_t block_size, int32_t max_length)
        : requests_(requests), padded_(padded), columns_(columns), row_stride_(row_stride), block_size_(block_size),
          max_length_(max_length) {
        positions_.SetGlobalBuffer((__gm__ int64_t*)positions, requests);
        table_.SetGlobalBuffer((__gm__ int32_t*)block_table, (uint64_t)requests * row_stride);
        lengths_.SetGlobalBuffer((__gm__ int32_t*)seq_lens, requests);
        new_positions_.SetGlobalBuffer((__gm__ int64_t*)new_positions, requests);
        slots_.SetGlobalBuffer((__gm__ int64_t*)slots, padded);
        pipe_.InitBuffer(position_buffer_, kTile * sizeof(int64_t));
        pipe_.InitBuffer(length_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(slot_buffer_, kTile * sizeof(int64_t));
        pipe_.InitBuffer(offset_buffer_, kTile * sizeof(int32_t));
        pipe_.InitBuffer(block_buffer_, kTile * kPerBlock * sizeof(int32_t));
    }

    __aicore__ inline void Run() {
        int32_t step = (int32_t)GetBlockNum() * kTile;
        for (int32_t first = (int32_t)GetBlockIdx() * kTile; first < padded_; first += step) {
            int32_t count = padded_ - first < kTile ? padded_ - first : kTile;
            int32_t real = requests_ - first < count ? requests_ - first : count;
            LocalTensor<int64_t> slots = slot_buffer_.Get<int64_t>();
            if (real > 0) Requests(first, real);
            for (int32_t i = real > 0 ? real : 0; i < count; ++i) slots.SetValue(i, (int64_t)kPadding);
            Order<HardEvent::S_MTE3>();
            DataCopyExtParams copy{1, (uint32_t)(count * sizeof(int64_t)), 0, 0, 0};
            DataCopyPad(slots_[first], slots, copy);
            if (real > 0) Store(first, real);
            // The buffers are written again in the next round.
            Order<HardEvent::MTE3_S>();
        }
    }

private:
    __aicore__ inline void Requests(int32_t first, int32_t count) {
        LocalTensor<int64_t> positions = position_buffer_.Get<int64_t>();
        LocalTensor<int32_t> lengths = length_buffer_.Get<int32_t>();
        LocalTensor<int64_t> slots = slot_buffer_.Get<int64_t>();
        LocalTensor<int32_t> offsets = offset_buffer_.Get<int32_t>();
        LocalTensor<int32_t> blocks = block_buffer_.Get<int32_t>();
        DataCopyExtParams position_copy{1, (uint32_t)(count * sizeof(int64_t)), 0, 0, 0};
        DataCopyExtParams length_copy{1, (uint32_t)(count * sizeof(int32_t)), 0, 0, 0};
        DataCopyPad(positions, positions_[first], position_copy, {false, 0, 0, 0});
        DataCopyPad(lengths, lengths_[first], length_copy, {false, 0, 0, 0});
        Order<HardEvent::MTE2_S>();
        for (int32_t i = 0; i < count; ++i) {
            int64_t next = positions.GetValue(i) + 1;
            bool exceeds = next >= max_length_;
            int32_t position = exceeds ? 0 : (int32_t)next;
            int32_t length = exceeds ? 1 : lengths.GetValue(i) + 1;
            int32_t column = position / block_size_;
            if (column > columns_ - 1) column = columns_ - 1;
            positions.SetValue(i, (int64_t)position);
            lengths.SetValue(i, length < max_length_ ? length : max_length_);
            offsets.SetValue(i, exceeds ? kPadding : position % block_size_);
            DataCopyExtParams word{1, sizeof(int32_t), 0, 0, 0};
            DataCopyPad(blocks[i * kPerBlock], table_[(uint64_t)(first + i) * row_stride_ + column], word,
                        {false, 0, 0, 0});
        }
        Order<HardEvent::MTE2_S>();
        for (int32_t i = 0; i < count; ++i) {
            int32_t offset = offsets.GetValue(i);
            int64_t begin = (int64_t)blocks.GetValue(i * kPerBlock) * block_size_;
            slots.SetValue(i, offset < 0 ? (int64_t)kPadding : begin + offset);
        }
    }

    __aicore__ inline void Store(int32_t first, int32_t count) {
        DataCopyExtParams position_copy{1, (uint32_t)(count * sizeof(int64_t)), 0, 0, 0};
        DataCopyExtParams length_copy{1, (uint32_t)(count * sizeof(int32_t)), 0, 0, 0};
        DataCopyPad(new_positions_[first], position_buffer_.Get<int64_t>(), position_copy);
        DataCopyPad(lengths_[first], length_buffer_.Get<int32_t>(), length_copy);
    }

    TPipe pipe_;
    TBuf<TPosition::VECCALC> position_buffer_, length_buffer_, slot_buffer_, offset_buffer_, block_buffer_;
    GlobalTensor<int64_t> positions_, new_positions_, slots_;
    GlobalTensor<int32_t> table_, lengths_;
    int32_t requests_, padded_, columns_, row_stride_, block_size_, max_length_;
};

}  // namespace

// positions i64[requests], block_table i32[requests, columns] with rows row_stride apart, seq_lens i32[requests] in
// place, new_positions i64[requests] (may be positions), slots i64[padded]
extern "C" __global__ __aicore__ void eagle_step_metadata(GM_ADDR positions, GM_ADDR block_table, GM_ADDR seq_lens,
                                                          GM_ADDR new_positions, GM_ADDR slots, int32_t requests,
                                                          int32_t padded, int32_t columns, int32_t row_stride,
                                                          int32_t block_size, int32_t max_length) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Step step(positions, block_table, seq_lens, new_positions, slots, requests, padded, columns, row_stride, block_size,
              max_length);
    step.Run();
}

// Zeroes blocks of memory: for each segment and each block number, `size` words from address + block * stride.
//
// A unit is one block of one segment. With fewer units than cores, `share` cores take chunks of a unit in turn. Zeros are
// made once in the unified buffer; everything else is transfers out of it.
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kChunk = 16384;   // words of one transfer, 64 KB
constexpr int32_t kSegments = 1024;  // segments in the unified buffer at once
constexpr int32_t kBlocks = 4096;    // block numbers in the unified buffer at once

template <HardEvent event>
__aicore__ inline void Order() {
    int32_t id = (int32_t)GetTPipePtr()->FetchEventID(event);
    SetFlag<event>(id);
    WaitFlag<event>(id);
}

class Zero {
public:
    __aicore__ inline Zero(GM_ADDR addresses, GM_ADDR strides, GM_ADDR sizes, GM_ADDR blocks, int32_t segments,
                           int32_t count, int32_t share)
        : segments_(segments), count_(count), share_(share) {
        addresses_.SetGlobalBuffer((__gm__ int64_t*)addresses, segments);
        strides_.SetGlobalBuffer((__gm__ int64_t*)strides, segments);
        sizes_.SetGlobalBuffer((__gm__ int64_t*)sizes, segments);
        blocks_.SetGlobalBuffer((__gm__ int64_t*)blocks, count);
        pipe_.InitBuffer(zero_buffer_, kChunk * sizeof(int32_t));
        pipe_.InitBuffer(address_buffer_, kSegments * sizeof(int64_t));
        pipe_.InitBuffer(stride_buffer_, kSegments * sizeof(int64_t));
        pipe_.InitBuffer(size_buffer_, kSegments * sizeof(int64_t));
        pipe_.InitBuffer(block_buffer_, kBlocks * sizeof(int64_t));
    }

    __aicore__ inline void Run() {
        Duplicate(zero_buffer_.Get<int32_t>(), 0, kChunk);
        Order<HardEvent::V_MTE3>();
        for (int32_t segment = 0; segment < segments_; segment += kSegments) {
            int32_t segments = segments_ - segment < kSegments ? segments_ - segment : kSegments;
            Load(address_buffer_, addresses_, segment, segments);
            Load(stride_buffer_, strides_, segment, segments);
            Load(size_buffer_, sizes_, segment, segments);
            for (int32_t block = 0; block < count_; block += kBlocks) {
                int32_t blocks = count_ - block < kBlocks ? count_ - block : kBlocks;
                Load(block_buffer_, blocks_, block, blocks);
                Order<HardEvent::MTE2_S>();
                Units(segments, blocks);
                Order<HardEvent::S_MTE2>();
            }
        }
    }

private:
    __aicore__ inline void Load(TBuf<TPosition::VECCALC>& buffer, const GlobalTensor<int64_t>& from, int32_t first,
                                int32_t count) {
        DataCopyExtParams copy{1, (uint32_t)(count * sizeof(int64_t)), 0, 0, 0};
        DataCopyPad(buffer.Get<int64_t>(), from[first], copy, {false, 0, 0, 0});
    }

    __aicore__ inline void Units(int32_t segments, int32_t blocks) {
        LocalTensor<int64_t> addresses = address_buffer_.Get<int64_t>();
        LocalTensor<int64_t> strides = stride_buffer_.Get<int64_t>();
        LocalTensor<int64_t> sizes = size_buffer_.Get<int64_t>();
        LocalTensor<int64_t> numbers = block_buffer_.Get<int64_t>();
        LocalTensor<int32_t> zeros = zero_buffer_.Get<int32_t>();
        int32_t groups = (int32_t)GetBlockNum() / share_;
        int32_t group = (int32_t)GetBlockIdx() / share_;
        int64_t lane = (int64_t)GetBlockIdx() % share_;
        if (group >= groups) return;
        for (int32_t unit = group; unit < segments * blocks; unit += groups) {
            int32_t segment = unit / blocks;
            int64_t size = sizes.GetValue(segment);
            int64_t begin = numbers.GetValue(unit % blocks) * strides.GetValue(segment);
            GlobalTensor<int32_t> memory;
            memory.SetGlobalBuffer((__gm__ int32_t*)addresses.GetValue(segment) + begin, size);
            for (int64_t word = lane * kChunk; word < size; word += (int64_t)share_ * kChunk) {
                uint32_t length = size - word < (int64_t)kChunk ? (uint32_t)(size - word) : kChunk;
                DataCopyExtParams copy{1, (uint32_t)(length * sizeof(int32_t)), 0, 0, 0};
                DataCopyPad(memory[word], zeros, copy);
            }
        }
    }

    TPipe pipe_;
    TBuf<TPosition::VECCALC> zero_buffer_, address_buffer_, stride_buffer_, size_buffer_, block_buffer_;
    GlobalTensor<int64_t> addresses_, strides_, sizes_, blocks_;
    int32_t segments_, count_, share_;
};

}  // namespace

// addresses (bytes), strides and sizes (4-byte words) i64[segments], blocks i64[count]
extern "C" __global__ __aicore__ void zero_blocks(GM_ADDR addresses, GM_ADDR strides, GM_ADDR sizes, GM_ADDR blocks,
                                                  int32_t segments, int32_t count, int32_t share) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Zero zero(addresses, strides, sizes, blocks, segments, count, share);
    zero.Run();
}

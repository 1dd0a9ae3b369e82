// Copies blocks of memory: for each region and each pair (from, to) of block numbers, `size` bytes from
// source + from * source pitch to destination + to * destination pitch. Without pairs every region is copied once.
//
// A unit is one pair of one region. With fewer units than cores, `share` cores take chunks of a unit in turn, unless its
// source and destination overlap: then one core copies it from front to back, which is right when it moves down.
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr int64_t kChunk = 65536;  // bytes of one transfer; two are under way
constexpr int32_t kRegions = 256;  // regions in the unified buffer at once
constexpr int32_t kPairs = 1024;   // pairs of block numbers in the unified buffer at once

template <HardEvent event>
__aicore__ inline void Order() {
    int32_t id = (int32_t)GetTPipePtr()->FetchEventID(event);
    SetFlag<event>(id);
    WaitFlag<event>(id);
}

template <typename Size>
class Copier {
public:
    __aicore__ inline Copier(GM_ADDR sources, GM_ADDR destinations, GM_ADDR source_pitches, GM_ADDR destination_pitches,
                             GM_ADDR sizes, GM_ADDR pairs, int32_t regions, int32_t count, int32_t share)
        : regions_(regions), count_(count), share_(share), paired_(pairs != nullptr) {
        sources_.SetGlobalBuffer((__gm__ int64_t*)sources, regions);
        destinations_.SetGlobalBuffer((__gm__ int64_t*)destinations, regions);
        sizes_.SetGlobalBuffer((__gm__ Size*)sizes, regions);
        pipe_.InitBuffer(data_queue_, 2, kChunk);
        pipe_.InitBuffer(source_buffer_, kRegions * sizeof(int64_t));
        pipe_.InitBuffer(destination_buffer_, kRegions * sizeof(int64_t));
        pipe_.InitBuffer(size_buffer_, kRegions * sizeof(Size));
        if (!paired_) return;
        source_pitches_.SetGlobalBuffer((__gm__ int64_t*)source_pitches, regions);
        destination_pitches_.SetGlobalBuffer((__gm__ int64_t*)destination_pitches, regions);
        pairs_.SetGlobalBuffer((__gm__ int64_t*)pairs, (uint64_t)count * 2);
        pipe_.InitBuffer(source_pitch_buffer_, kRegions * sizeof(int64_t));
        pipe_.InitBuffer(destination_pitch_buffer_, kRegions * sizeof(int64_t));
        pipe_.InitBuffer(pair_buffer_, kPairs * 2 * sizeof(int64_t));
    }

    __aicore__ inline void Run() {
        for (int32_t region = 0; region < regions_; region += kRegions) {
            int32_t regions = regions_ - region < kRegions ? regions_ - region : kRegions;
            Load(source_buffer_, sources_, region, regions);
            Load(destination_buffer_, destinations_, region, regions);
            Load(size_buffer_, sizes_, region, regions);
            if (paired_) {
                Load(source_pitch_buffer_, source_pitches_, region, regions);
                Load(destination_pitch_buffer_, destination_pitches_, region, regions);
            }
            for (int32_t pair = 0; pair < count_; pair += kPairs) {
                int32_t pairs = count_ - pair < kPairs ? count_ - pair : kPairs;
                if (paired_) Load(pair_buffer_, pairs_, pair * 2, pairs * 2);
                Order<HardEvent::MTE2_S>();
                Units(regions, pairs);
                Order<HardEvent::S_MTE2>();
            }
        }
    }

private:
    template <typename T>
    __aicore__ inline void Load(TBuf<TPosition::VECCALC>& buffer, const GlobalTensor<T>& from, int32_t first,
                                int32_t count) {
        DataCopyExtParams copy{1, (uint32_t)(count * sizeof(T)), 0, 0, 0};
        DataCopyPad(buffer.Get<T>(), from[first], copy, {false, 0, 0, 0});
    }

    __aicore__ inline void Units(int32_t regions, int32_t pairs) {
        LocalTensor<int64_t> sources = source_buffer_.Get<int64_t>();
        LocalTensor<int64_t> destinations = destination_buffer_.Get<int64_t>();
        LocalTensor<Size> sizes = size_buffer_.Get<Size>();
        int32_t groups = (int32_t)GetBlockNum() / share_;
        int32_t group = (int32_t)GetBlockIdx() / share_;
        int64_t lane = (int64_t)GetBlockIdx() % share_;
        if (group >= groups) return;
        for (int32_t unit = group; unit < regions * pairs; unit += groups) {
            int32_t region = unit / pairs;
            int64_t source = sources.GetValue(region);
            int64_t destination = destinations.GetValue(region);
            if (paired_) {
                LocalTensor<int64_t> numbers = pair_buffer_.Get<int64_t>();
                int32_t pair = unit % pairs;
                source += numbers.GetValue(pair * 2) * source_pitch_buffer_.Get<int64_t>().GetValue(region);
                destination +=
                    numbers.GetValue(pair * 2 + 1) * destination_pitch_buffer_.Get<int64_t>().GetValue(region);
            }
            CopyRange(source, destination, (int64_t)sizes.GetValue(region), lane);
        }
    }

    __aicore__ inline void CopyRange(int64_t source, int64_t destination, int64_t size, int64_t lane) {
        if (source == destination) return;
        int64_t step = (int64_t)share_ * kChunk;
        if (source < destination + size && destination < source + size) {
            if (lane != 0) return;
            step = kChunk;
        }
        GlobalTensor<uint8_t> from, to;
        from.SetGlobalBuffer((__gm__ uint8_t*)source, size);
        to.SetGlobalBuffer((__gm__ uint8_t*)destination, size);
        for (int64_t at = lane * kChunk; at < size; at += step) {
            DataCopyExtParams copy{1, (uint32_t)(size - at < kChunk ? size - at : kChunk), 0, 0, 0};
            LocalTensor<uint8_t> data = data_queue_.AllocTensor<uint8_t>();
            DataCopyPad(data, from[at], copy, {false, 0, 0, 0});
            data_queue_.EnQue(data);
            data = data_queue_.DeQue<uint8_t>();
            DataCopyPad(to[at], data, copy);
            data_queue_.FreeTensor(data);
        }
    }

    TPipe pipe_;
    TQueBind<TPosition::VECIN, TPosition::VECOUT, 1> data_queue_;
    TBuf<TPosition::VECCALC> source_buffer_, destination_buffer_, size_buffer_, source_pitch_buffer_,
        destination_pitch_buffer_, pair_buffer_;
    GlobalTensor<int64_t> sources_, destinations_, source_pitches_, destination_pitches_, pairs_;
    GlobalTensor<Size> sizes_;
    int32_t regions_, count_, share_;
    bool paired_;
};

}  // namespace

// sources, destinations (addresses) and pitches (bytes) i64[regions], sizes (bytes) i64 or i32[regions],
// pairs i64[count, 2] or null with count 1; then the pitches are not read
extern "C" __global__ __aicore__ void copy_blocks_int64(GM_ADDR sources, GM_ADDR destinations, GM_ADDR source_pitches,
                                                        GM_ADDR destination_pitches, GM_ADDR sizes, GM_ADDR pairs,
                                                        int32_t regions, int32_t count, int32_t share) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Copier<int64_t> copier(sources, destinations, source_pitches, destination_pitches, sizes, pairs, regions, count, share);
    copier.Run();
}

extern "C" __global__ __aicore__ void copy_blocks_int32(GM_ADDR sources, GM_ADDR destinations, GM_ADDR source_pitches,
                                                        GM_ADDR destination_pitches, GM_ADDR sizes, GM_ADDR pairs,
                                                        int32_t regions, int32_t count, int32_t share) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Copier<int32_t> copier(sources, destinations, source_pitches, destination_pitches, sizes, pairs, regions, count, share);
    copier.Run();
}

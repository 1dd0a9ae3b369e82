// For each request of a padded draft batch: how many of its draft tokens were rejected, and which token to sample from.
//
// rejected = drafts > 0 ? drafts + 1 - valid : 0, where drafts is the difference of neighbours in an inclusive running
// sum, never negative. The choice is a product with min(drafts, 1): int32 can only be compared for equality.
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kTile = 1024;  // requests of one unit

class PrepareInputs {
public:
    __aicore__ inline PrepareInputs(GM_ADDR cu_drafts, GM_ADDR valid, GM_ADDR query_start_loc, GM_ADDR indices,
                                    GM_ADDR rejected, int32_t requests)
        : requests_(requests) {
        cu_drafts_.SetGlobalBuffer((__gm__ int32_t*)cu_drafts, requests);
        valid_.SetGlobalBuffer((__gm__ int32_t*)valid, requests);
        starts_.SetGlobalBuffer((__gm__ int32_t*)query_start_loc, requests + 1);
        indices_.SetGlobalBuffer((__gm__ int32_t*)indices, requests);
        rejected_.SetGlobalBuffer((__gm__ int32_t*)rejected, requests);
        pipe_.InitBuffer(sum_queue_, 1, kTile * sizeof(int32_t));
        pipe_.InitBuffer(before_queue_, 1, kTile * sizeof(int32_t));
        pipe_.InitBuffer(valid_queue_, 1, kTile * sizeof(int32_t));
        pipe_.InitBuffer(end_queue_, 1, kTile * sizeof(int32_t));
        pipe_.InitBuffer(index_queue_, 1, kTile * sizeof(int32_t));
        pipe_.InitBuffer(rejected_queue_, 1, kTile * sizeof(int32_t));
        pipe_.InitBuffer(draft_buffer_, kTile * sizeof(int32_t));
    }

    __aicore__ inline void Run() {
        int32_t step = (int32_t)(GetBlockNum() * kTile);
        for (int32_t first = (int32_t)(GetBlockIdx() * kTile); first < requests_; first += step) {
            uint32_t length = requests_ - first < (int32_t)kTile ? requests_ - first : kTile;
            Load(first, length);
            Compute(first, length);
        }
    }

private:
    __aicore__ inline void Load(int32_t first, uint32_t length) {
        Fetch(sum_queue_, cu_drafts_, first, length);
        Fetch(valid_queue_, valid_, first, length);
        Fetch(end_queue_, starts_, first + 1, length);
        // The sums one request earlier; 0 comes before the first.
        LocalTensor<int32_t> before = before_queue_.AllocTensor<int32_t>();
        if (first > 0) {
            DataCopyExtParams copy{1, (uint32_t)(length * sizeof(int32_t)), 0, 0, 0};
            DataCopyPad(before, cu_drafts_[first - 1], copy, {false, 0, 0, 0});
        } else if (length > 1) {
            DataCopyExtParams copy{1, (uint32_t)((length - 1) * sizeof(int32_t)), 0, 0, 0};
            DataCopyPad(before, cu_drafts_, copy, {true, 1, 0, 0});
        } else {
            Duplicate(before, 0, 1);
        }
        before_queue_.EnQue(before);
    }

    __aicore__ inline void Fetch(TQue<TPosition::VECIN, 1>& queue, const GlobalTensor<int32_t>& from, int32_t first,
                                 uint32_t length) {
        LocalTensor<int32_t> loaded = queue.AllocTensor<int32_t>();
        DataCopyExtParams copy{1, (uint32_t)(length * sizeof(int32_t)), 0, 0, 0};
        DataCopyPad(loaded, from[first], copy, {false, 0, 0, 0});
        queue.EnQue(loaded);
    }

    __aicore__ inline void Compute(int32_t first, uint32_t length) {
        LocalTensor<int32_t> sums = sum_queue_.DeQue<int32_t>();
        LocalTensor<int32_t> valid = valid_queue_.DeQue<int32_t>();
        LocalTensor<int32_t> ends = end_queue_.DeQue<int32_t>();
        LocalTensor<int32_t> before = before_queue_.DeQue<int32_t>();
        LocalTensor<int32_t> drafts = draft_buffer_.Get<int32_t>();
        LocalTensor<int32_t> indices = index_queue_.AllocTensor<int32_t>();
        LocalTensor<int32_t> rejected = rejected_queue_.AllocTensor<int32_t>();
        Sub(drafts, sums, before, length);
        Adds(rejected, drafts, 1, length);
        Sub(rejected, rejected, valid, length);
        Mins(drafts, drafts, 1, length);
        Mul(rejected, rejected, drafts, length);
        Adds(indices, ends, -1, length);
        Sub(indices, indices, rejected, length);
        sum_queue_.FreeTensor(sums);
        valid_queue_.FreeTensor(valid);
        end_queue_.FreeTensor(ends);
        before_queue_.FreeTensor(before);
        Store(index_queue_, indices_, indices, first, length);
        Store(rejected_queue_, rejected_, rejected, first, length);
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
    TQue<TPosition::VECIN, 1> sum_queue_, before_queue_, valid_queue_, end_queue_;
    TQue<TPosition::VECOUT, 1> index_queue_, rejected_queue_;
    TBuf<TPosition::VECCALC> draft_buffer_;
    GlobalTensor<int32_t> cu_drafts_, valid_, starts_, indices_, rejected_;
    int32_t requests_;
};

}  // namespace

// cu_drafts i32[requests] (inclusive), valid i32[requests], query_start_loc i32[requests + 1], indices i32[requests],
// rejected i32[requests]
extern "C" __global__ __aicore__ void eagle_prepare_inputs_padded(GM_ADDR cu_drafts, GM_ADDR valid,
                                                                  GM_ADDR query_start_loc, GM_ADDR indices,
                                                                  GM_ADDR rejected, int32_t requests) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    PrepareInputs prepare(cu_drafts, valid, query_start_loc, indices, rejected, requests);
    prepare.Run();
}

// The token that replaces a rejected draft token, for every draft token: argmax of (target - draft) / q over the
// vocabulary, where q are exponential random numbers of the request. Without draft probabilities the draft token was
// certain, so it is the one token that may not replace itself.
//
// Blocks of the launch take draft tokens in turn.
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kTile = 4096;
constexpr uint32_t kRequests = 1024;  // ends of requests in the unified buffer at once
constexpr uint32_t kBlock = 8;        // floats in 32 bytes
constexpr uint32_t kWork = 512;       // floats; ReduceMax with index needs 2 per repeat of 64, and those of the next steps

class RecoveredTokens {
public:
    __aicore__ inline RecoveredTokens(GM_ADDR recovered, GM_ADDR ends, GM_ADDR drafts, GM_ADDR draft_probs,
                                      GM_ADDR target_probs, GM_ADDR q, int32_t requests, int32_t tokens, int32_t vocab,
                                      int64_t draft_stride, int64_t target_stride, int64_t q_stride)
        : requests_(requests), vocab_(vocab), draft_stride_(draft_stride), target_stride_(target_stride),
          q_stride_(q_stride), has_draft_probs_(draft_probs != nullptr) {
        recovered_.SetGlobalBuffer((__gm__ int32_t*)recovered, tokens);
        ends_.SetGlobalBuffer((__gm__ int32_t*)ends, requests);
        drafts_.SetGlobalBuffer((__gm__ int32_t*)drafts, tokens);
        draft_probs_.SetGlobalBuffer((__gm__ float*)draft_probs);
        target_probs_.SetGlobalBuffer((__gm__ float*)target_probs);
        q_.SetGlobalBuffer((__gm__ float*)q);
        pipe_.InitBuffer(end_queue_, 1, kRequests * sizeof(int32_t));
        pipe_.InitBuffer(target_queue_, 2, kTile * sizeof(float));
        pipe_.InitBuffer(draft_queue_, 2, kTile * sizeof(float));
        pipe_.InitBuffer(q_queue_, 2, kTile * sizeof(float));
        pipe_.InitBuffer(out_queue_, 1, kBlock * sizeof(int32_t));
        pipe_.InitBuffer(one_buffer_, kTile * sizeof(float));
        pipe_.InitBuffer(score_buffer_, kTile * sizeof(float));
        pipe_.InitBuffer(inverse_buffer_, kTile * sizeof(float));
        pipe_.InitBuffer(work_buffer_, kWork * sizeof(float));
        pipe_.InitBuffer(best_buffer_, kBlock * sizeof(float));
        Duplicate(one_buffer_.Get<float>(), 1.0f, kTile);
    }

    __aicore__ inline void Run() {
        int32_t token = 0;
        for (uint32_t first = 0; first < requests_; first += kRequests) {
            uint32_t count = requests_ - first < kRequests ? requests_ - first : kRequests;
            LocalTensor<int32_t> ends = end_queue_.AllocTensor<int32_t>();
            DataCopyExtParams copy{1, (uint32_t)(count * sizeof(int32_t)), 0, 0, 0};
            DataCopyPad(ends, ends_[first], copy, {false, 0, 0, 0});
            end_queue_.EnQue(ends);
            ends = end_queue_.DeQue<int32_t>();
            for (uint32_t i = 0; i < count; ++i) {
                for (int32_t end = ends.GetValue(i); token < end; ++token) {
                    if (token % GetBlockNum() == GetBlockIdx()) Token(first + i, token);
                }
            }
            end_queue_.FreeTensor(ends);
        }
    }

private:
    __aicore__ inline LocalTensor<float> Load(TQue<TPosition::VECIN, 1>& queue, const GlobalTensor<float>& from,
                                              uint64_t offset, uint32_t length) {
        LocalTensor<float> values = queue.AllocTensor<float>();
        DataCopyExtParams copy{1, (uint32_t)(length * sizeof(float)), 0, 0, 0};
        DataCopyPad(values, from[offset], copy, {false, 0, 0, 0.0f});
        queue.EnQue(values);
        return values;
    }

    __aicore__ inline void Token(uint64_t request, uint64_t token) {
        LocalTensor<float> best = best_buffer_.Get<float>();
        int32_t draft = has_draft_probs_ ? -1 : drafts_.GetValue(token);
        float largest = -__builtin_inff();
        uint32_t place = 0;
        for (uint32_t first = 0; first < vocab_; first += kTile) {
            uint32_t length = vocab_ - first < kTile ? vocab_ - first : kTile;
            Score(request, token, first, length, draft);
            ReduceMax(best, score_buffer_.Get<float>(), work_buffer_.Get<float>(), length, true);
            float value = best.GetValue(0);
            // Only a larger one, so that the first of equal scores stays.
            if (value > largest) {
                largest = value;
                place = first + best.ReinterpretCast<uint32_t>().GetValue(1);
            }
        }
        LocalTensor<int32_t> result = out_queue_.AllocTensor<int32_t>();
        Duplicate(result, (int32_t)place, kBlock);
        out_queue_.EnQue(result);
        result = out_queue_.DeQue<int32_t>();
        DataCopyExtParams copy{1, sizeof(int32_t), 0, 0, 0};
        DataCopyPad(recovered_[token], result, copy);
        out_queue_.FreeTensor(result);
    }

    __aicore__ inline void Score(uint64_t request, uint64_t token, uint32_t first, uint32_t length, int32_t draft) {
        LocalTensor<float> score = score_buffer_.Get<float>();
        LocalTensor<float> inverse = inverse_buffer_.Get<float>();
        Load(target_queue_, target_probs_, token * target_stride_ + first, length);
        if (has_draft_probs_) Load(draft_queue_, draft_probs_, token * draft_stride_ + first, length);
        Load(q_queue_, q_, request * q_stride_ + first, length);
        LocalTensor<float> target = target_queue_.DeQue<float>();
        if (has_draft_probs_) {
            LocalTensor<float> other = draft_queue_.DeQue<float>();
            Sub(score, target, other, length);
            draft_queue_.FreeTensor(other);
            Maxs(score, score, 0.0f, length);
        } else {
            Adds(score, target, 0.0f, length);
            if (draft >= (int32_t)first && draft < (int32_t)(first + length)) score.SetValue(draft - first, 0.0f);
        }
        target_queue_.FreeTensor(target);
        // A reciprocal and a product round like vLLM, one division would not.
        LocalTensor<float> q = q_queue_.DeQue<float>();
        Div(inverse, one_buffer_.Get<float>(), q, length);
        q_queue_.FreeTensor(q);
        Mul(score, score, inverse, length);
    }

    TPipe pipe_;
    TQue<TPosition::VECIN, 1> end_queue_, target_queue_, draft_queue_, q_queue_;
    TQue<TPosition::VECOUT, 1> out_queue_;
    TBuf<TPosition::VECCALC> one_buffer_, score_buffer_, inverse_buffer_, work_buffer_, best_buffer_;
    GlobalTensor<int32_t> recovered_, ends_, drafts_;
    GlobalTensor<float> draft_probs_, target_probs_, q_;
    uint32_t requests_, vocab_;
    uint64_t draft_stride_, target_stride_, q_stride_;
    bool has_draft_probs_;
};

}  // namespace

// recovered i32[tokens]; ends i32[requests], the number of draft tokens up to and with each request; drafts
// i32[tokens]; draft_probs f32[tokens, vocab] or null; target_probs f32[tokens, vocab]; q f32[requests, vocab]; rows of
// the matrices are their strides in elements apart.
extern "C" __global__ __aicore__ void sample_recovered_tokens(GM_ADDR recovered, GM_ADDR ends, GM_ADDR drafts,
                                                              GM_ADDR draft_probs, GM_ADDR target_probs, GM_ADDR q,
                                                              int32_t requests, int32_t tokens, int32_t vocab,
                                                              int64_t draft_stride, int64_t target_stride,
                                                              int64_t q_stride) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    RecoveredTokens(recovered, ends, drafts, draft_probs, target_probs, q, requests, tokens, vocab, draft_stride,
                    target_stride, q_stride).Run();
}

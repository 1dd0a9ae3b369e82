// Which draft tokens of each request stay: those before the first that is rejected, then the token in its place, or the
// bonus token if all stay.
//
// Blocks of the launch take requests in turn. A request's vectors come in one go; then the two probabilities of each
// draft token, which lie a vocabulary apart, in a second; the decisions are scalar.
#include "kernel_operator.h"

namespace {

using namespace AscendC;

constexpr uint32_t kMaxDrafts = 128;  // of one request; vLLM's MAX_SPEC_LEN
constexpr uint32_t kBlock = 8;        // floats in 32 bytes
constexpr int32_t kPlaceholder = -1;
// Where a request's vectors lie in one buffer, in bytes.
constexpr uint32_t kDraftBytes = 0;
constexpr uint32_t kRecoveredBytes = kDraftBytes + kMaxDrafts * sizeof(int32_t);
constexpr uint32_t kRateBytes = kRecoveredBytes + kMaxDrafts * sizeof(int32_t);
constexpr uint32_t kArgmaxBytes = kRateBytes + kMaxDrafts * sizeof(float);
constexpr uint32_t kUniformBytes = kArgmaxBytes + kMaxDrafts * sizeof(int64_t);
constexpr uint32_t kVectorBytes = kUniformBytes + kMaxDrafts * sizeof(uint64_t);

// A float64 of 0 and more, given by its bits, as the nearest float above or below it if it is none: x >= u is
// x >= above(u) for a float x, and x > u is x > below(u). The cores have no float64.
__aicore__ inline float Neighbour(uint64_t bits, bool above) {
    union {
        uint32_t bits;
        float value;
    } result;
    constexpr uint32_t kSmallestNormal = 0x00800000;
    int32_t exponent = (int32_t)(bits >> 52) - 1023 + 127;
    uint64_t mantissa = bits & ((1ull << 52) - 1);
    if (exponent > 0) {
        // A carry out of the mantissa raises the exponent, as it should.
        bool inexact = (mantissa & ((1ull << 29) - 1)) != 0;
        result.bits = ((uint32_t)exponent << 23 | (uint32_t)(mantissa >> 29)) + (inexact && above ? 1 : 0);
    } else {
        result.bits = bits != 0 && above ? kSmallestNormal : 0;
    }
    return result.value;
}

// GM_ADDR may be a macro that ends in a star: one name per declaration.
struct Addresses {
    GM_ADDR output;
    GM_ADDR ends;
    GM_ADDR drafts;
    GM_ADDR draft_probs;
    GM_ADDR target_probs;
    GM_ADDR target_argmax;
    GM_ADDR bonus;
    GM_ADDR recovered;
    GM_ADDR uniform;
    GM_ADDR temperature;
    GM_ADDR rates;
};

class RejectionSample {
public:
    __aicore__ inline RejectionSample(const Addresses& at, int32_t requests, int32_t max_drafts, int32_t vocab,
                                      int32_t uniform_is_double, int64_t draft_stride, int64_t target_stride)
        : requests_(requests), width_(max_drafts + 1), vocab_(vocab), draft_stride_(draft_stride),
          target_stride_(target_stride), has_argmax_(at.target_argmax != nullptr),
          has_temperature_(at.temperature != nullptr), has_draft_probs_(at.draft_probs != nullptr),
          synthetic_(at.rates != nullptr), uniform_is_double_(uniform_is_double != 0) {
        output_.SetGlobalBuffer((__gm__ int32_t*)at.output, (uint64_t)requests * width_);
        ends_.SetGlobalBuffer((__gm__ int32_t*)at.ends, requests);
        drafts_.SetGlobalBuffer((__gm__ int32_t*)at.drafts);
        draft_probs_.SetGlobalBuffer((__gm__ float*)at.draft_probs);
        target_probs_.SetGlobalBuffer((__gm__ float*)at.target_probs);
        argmax_.SetGlobalBuffer((__gm__ int64_t*)at.target_argmax);
        bonus_.SetGlobalBuffer((__gm__ int32_t*)at.bonus, requests);
        recovered_.SetGlobalBuffer((__gm__ int32_t*)at.recovered);
        uniform_.SetGlobalBuffer((__gm__ float*)at.uniform);
        uniform_double_.SetGlobalBuffer((__gm__ uint64_t*)at.uniform);
        temperature_.SetGlobalBuffer((__gm__ float*)at.temperature, requests);
        rates_.SetGlobalBuffer((__gm__ float*)at.rates);
        pipe_.InitBuffer(vector_queue_, 1, kVectorBytes);
        pipe_.InitBuffer(prob_queue_, 1, kMaxDrafts * 2 * kBlock * sizeof(float));
        pipe_.InitBuffer(out_queue_, 1, (kMaxDrafts + 1) * sizeof(int32_t));
    }

    __aicore__ inline void Run() {
        for (uint32_t request = GetBlockIdx(); request < requests_; request += GetBlockNum()) {
            int32_t begin = request == 0 ? 0 : ends_.GetValue(request - 1);
            Request(request, begin, ends_.GetValue(request) - begin);
        }
    }

private:
    __aicore__ inline void Request(uint32_t request, uint32_t begin, uint32_t count) {
        bool greedy = has_argmax_ && (!has_temperature_ || temperature_.GetValue(request) == 0.0f);
        if (count > 0) {
            LoadVectors(begin, count, greedy);
            vectors_ = vector_queue_.DeQue<uint8_t>();
            if (!greedy && !synthetic_) LoadProbs(begin, count);
        }
        LocalTensor<int32_t> output = out_queue_.AllocTensor<int32_t>();
        Duplicate(output, kPlaceholder, width_);
        bool rejected = false;
        for (uint32_t i = 0; i < count && !rejected; ++i) {
            int32_t draft = Section<int32_t>(kDraftBytes).GetValue(i);
            int32_t other = greedy ? (int32_t)Section<int64_t>(kArgmaxBytes).GetValue(i)
                                   : Section<int32_t>(kRecoveredBytes).GetValue(i);
            bool stays;
            if (synthetic_) {
                stays = IsToken(draft) && Section<float>(kRateBytes).GetValue(i) > Uniform(i, false);
            } else if (greedy) {
                stays = draft == other;
            } else {
                stays = IsToken(draft) && Accepts(i);
            }
            output.SetValue(i, stays ? draft : other);
            rejected = !stays;
        }
        if (!rejected) output.SetValue(count, bonus_.GetValue(request));
        if (count > 0) {
            vector_queue_.FreeTensor(vectors_);
            if (!greedy && !synthetic_) prob_queue_.FreeTensor(probs_);
        }
        out_queue_.EnQue(output);
        output = out_queue_.DeQue<int32_t>();
        DataCopyExtParams copy{1, (uint32_t)(width_ * sizeof(int32_t)), 0, 0, 0};
        DataCopyPad(output_[(uint64_t)request * width_], output, copy);
        out_queue_.FreeTensor(output);
    }

    __aicore__ inline bool IsToken(int32_t draft) { return draft >= 0 && draft < vocab_; }

    template <typename T>
    __aicore__ inline LocalTensor<T> Section(uint32_t bytes) {
        return vectors_[bytes].template ReinterpretCast<T>();
    }

    template <typename T>
    __aicore__ inline void LoadVector(uint32_t bytes, const GlobalTensor<T>& from, uint32_t begin, uint32_t count) {
        DataCopyExtParams copy{1, (uint32_t)(count * sizeof(T)), 0, 0, 0};
        DataCopyPad(Section<T>(bytes), from[begin], copy, {false, 0, 0, T{}});
    }

    __aicore__ inline void LoadVectors(uint32_t begin, uint32_t count, bool greedy) {
        vectors_ = vector_queue_.AllocTensor<uint8_t>();
        LoadVector(kDraftBytes, drafts_, begin, count);
        if (greedy) {
            LoadVector(kArgmaxBytes, argmax_, begin, count);
        } else {
            LoadVector(kRecoveredBytes, recovered_, begin, count);
        }
        if (!greedy || synthetic_) {
            if (uniform_is_double_) {
                LoadVector(kUniformBytes, uniform_double_, begin, count);
            } else {
                LoadVector(kUniformBytes, uniform_, begin, count);
            }
        }
        if (synthetic_) LoadVector(kRateBytes, rates_, 0, count);
        vector_queue_.EnQue(vectors_);
    }

    // The probability of each draft token, one per 32 bytes: first the target's, then the draft's.
    __aicore__ inline void LoadProbs(uint64_t begin, uint32_t count) {
        probs_ = prob_queue_.AllocTensor<float>();
        LocalTensor<int32_t> drafts = Section<int32_t>(kDraftBytes);
        DataCopyExtParams copy{1, sizeof(float), 0, 0, 0};
        for (uint32_t i = 0; i < count; ++i) {
            int32_t draft = drafts.GetValue(i);
            if (!IsToken(draft)) continue;
            DataCopyPad(probs_[i * kBlock], target_probs_[(begin + i) * target_stride_ + draft], copy,
                        {false, 0, 0, 0.0f});
            if (!has_draft_probs_) continue;
            DataCopyPad(probs_[(kMaxDrafts + i) * kBlock], draft_probs_[(begin + i) * draft_stride_ + draft], copy,
                        {false, 0, 0, 0.0f});
        }
        prob_queue_.EnQue(probs_);
        probs_ = prob_queue_.DeQue<float>();
    }

    __aicore__ inline float Uniform(uint32_t i, bool above) {
        if (uniform_is_double_) return Neighbour(Section<uint64_t>(kUniformBytes).GetValue(i), above);
        return Section<float>(kUniformBytes).GetValue(i);
    }

    __aicore__ inline bool Accepts(uint32_t i) {
        float target = probs_.GetValue(i * kBlock);
        float draft = has_draft_probs_ ? probs_.GetValue((kMaxDrafts + i) * kBlock) : 1.0f;
        return draft > 0.0f && target / draft >= Uniform(i, true);
    }

    TPipe pipe_;
    TQue<TPosition::VECIN, 1> vector_queue_, prob_queue_;
    TQue<TPosition::VECOUT, 1> out_queue_;
    LocalTensor<uint8_t> vectors_;
    LocalTensor<float> probs_;
    GlobalTensor<int32_t> output_, ends_, drafts_, bonus_, recovered_;
    GlobalTensor<int64_t> argmax_;
    GlobalTensor<uint64_t> uniform_double_;
    GlobalTensor<float> draft_probs_, target_probs_, uniform_, temperature_, rates_;
    uint32_t requests_, width_;
    int32_t vocab_;
    uint64_t draft_stride_, target_stride_;
    bool has_argmax_, has_temperature_, has_draft_probs_, synthetic_, uniform_is_double_;
};

}  // namespace

// output i32[requests, max_drafts + 1]; ends i32[requests], the number of draft tokens up to and with each request;
// drafts, recovered i32[tokens], target_argmax i64[tokens], uniform f32 or f64[tokens]; draft_probs, target_probs
// f32[tokens, vocab] with rows their strides in elements apart; bonus i32[requests], temperature f32[requests], rates
// f32[max_drafts]. What is not needed is null; see the Python side.
extern "C" __global__ __aicore__ void rejection_sample(GM_ADDR output, GM_ADDR ends, GM_ADDR drafts,
                                                       GM_ADDR draft_probs, GM_ADDR target_probs,
                                                       GM_ADDR target_argmax, GM_ADDR bonus, GM_ADDR recovered,
                                                       GM_ADDR uniform, GM_ADDR temperature, GM_ADDR rates,
                                                       int32_t requests, int32_t max_drafts, int32_t vocab,
                                                       int32_t uniform_is_double, int64_t draft_stride,
                                                       int64_t target_stride) {
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Addresses at{output, ends, drafts, draft_probs, target_probs, target_argmax, bonus, recovered, uniform, temperature,
                 rates};
    RejectionSample(at, requests, max_drafts, vocab, uniform_is_double, draft_stride, target_stride).Run();
}

// The blocks of one launch. They run one after another on one stack each; a block that reaches SyncAll is set aside
// until all others have reached it too. Without threads the result is the same at every run.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>


#include "core.h"

namespace ascendc_host {

class Launch;

inline Launch*& CurrentLaunch() {
    static thread_local Launch* launch = nullptr;
    return launch;
}

// Stack, registers and core of a block. Kept between launches: most kernels need only one.
struct Fiber {
    static constexpr size_t kStackBytes = 1 << 20;

    Fiber() {
        stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED) throw std::bad_alloc();
    }
    ~Fiber() { munmap(stack, kStackBytes); }
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    void* stack;
    ucontext_t context{};
    Core core;
    Position position;
    bool finished = false, poisoned = false;
    uint32_t barriers = 0;
};

class Launch {
public:
    using Kernel = void (*)(const void* arguments);

    Launch(Kernel kernel, const void* arguments, uint32_t blocks, const ascendc_host_environment* env)
        : kernel_(kernel), arguments_(arguments), blocks_(blocks), environment_(env), before_(CurrentLaunch()) {
        CurrentLaunch() = this;
    }
    ~Launch() {
        for (auto& fiber : waiting_) Pool().push_back(std::move(fiber));
        CurrentLaunch() = before_;
        CurrentCore() = nullptr;
    }
    Launch(const Launch&) = delete;
    Launch& operator=(const Launch&) = delete;

    // Runs every block; throws the first fault.
    void Run() {
        for (uint32_t block = 0; block < blocks_; ++block) {
            std::unique_ptr<Fiber> fiber = Take();
            Prepare(*fiber, block);
            Resume(std::move(fiber));
        }
        while (!waiting_.empty()) {
            if (waiting_.size() != blocks_) Uneven();
            std::vector<std::unique_ptr<Fiber>> round;
            round.swap(waiting_);
            for (auto& fiber : round) Resume(std::move(fiber));
        }
        CheckCores();
    }

    void Suspend() {
        Fiber* fiber = running_;
        ++fiber->barriers;
        fiber->position = Here();
        swapcontext(&fiber->context, &main_);
    }

private:
    static std::vector<std::unique_ptr<Fiber>>& Pool() {
        static thread_local std::vector<std::unique_ptr<Fiber>> pool;
        return pool;
    }

    static std::unique_ptr<Fiber> Take() {
        auto& pool = Pool();
        if (pool.empty()) return std::make_unique<Fiber>();
        std::unique_ptr<Fiber> fiber = std::move(pool.back());
        pool.pop_back();
        return fiber;
    }

    // A function of its own: getcontext may return twice, and must not have other variables around it.
    [[gnu::noinline]] void Prepare(Fiber& fiber, uint32_t block) {
        bool races = environment_ != nullptr && environment_->checks != 0;
        fiber.core.Start(block, blocks_, environment_, races || !fiber.poisoned);
        fiber.poisoned = true;
        fiber.position = Position{};
        fiber.position.block = block;
        fiber.finished = false;
        fiber.barriers = 0;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = Fiber::kStackBytes;
        fiber.context.uc_link = &main_;
        makecontext(&fiber.context, &Launch::Trampoline, 0);
    }

    static void Trampoline() {
        Launch* launch = CurrentLaunch();
        Fiber* fiber = launch->running_;
        try {
            launch->kernel_(launch->arguments_);
            launch->finish_(fiber->core);
        } catch (const Fault& fault) {
            launch->fault_ = std::make_unique<Fault>(fault);
        }
        fiber->finished = true;
    }

    void Resume(std::unique_ptr<Fiber> fiber) {
        running_ = fiber.get();
        CurrentCore() = &fiber->core;
        Here() = fiber->position;
        swapcontext(&main_, &running_->context);
        if (fault_) {
            Pool().push_back(std::move(fiber));
            throw *fault_;
        }
        if (!fiber->finished) {
            waiting_.push_back(std::move(fiber));
            return;
        }
        if (!waiting_.empty() && fiber->barriers != waiting_.front()->barriers) Uneven();
        if (fiber->core.global) {
            for (const GlobalShadow::Access& access : fiber->core.global->Accesses()) accesses_.push_back(access);
        }
        Pool().push_back(std::move(fiber));
    }

    [[noreturn]] void Uneven() {
        Here() = waiting_.front()->position;
        Fail(ASCENDC_HOST_BLOCKS, "block %u waits here for all %u blocks, but some end without this SyncAll; "
                                  "the device would hang", Here().block, blocks_);
    }

    // Two cores on the same bytes between two SyncAll, at least one of them writing.
    void CheckCores() {
        auto& list = accesses_;
        std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
        for (size_t i = 0; i < list.size(); ++i) {
            for (size_t j = i + 1; j < list.size() && list[j].begin < list[i].end; ++j) {
                const auto &a = list[i], &b = list[j];
                if (a.block == b.block || a.epoch != b.epoch || (!a.write && !b.write) || (a.atomic && b.atomic)) continue;
                Here() = {"global memory", static_cast<int>(a.line), a.block};
                Fail(ASCENDC_HOST_RACE,
                     "race: block %u (line %u) %s and block %u (line %u) %s the same bytes at %#zx without SyncAll; "
                     "give each block its own range",
                     a.block, a.line, a.write ? "writes" : "reads", b.block, b.line, b.write ? "writes" : "reads",
                     static_cast<size_t>(b.begin));
            }
        }
    }

    Kernel kernel_;
    const void* arguments_;
    uint32_t blocks_;
    const ascendc_host_environment* environment_;
    Launch* before_;
    ucontext_t main_{};
    Fiber* running_ = nullptr;
    std::unique_ptr<Fault> fault_;
    std::vector<std::unique_ptr<Fiber>> waiting_;
    std::vector<GlobalShadow::Access> accesses_;

public:
    void (*finish_)(Core&) = nullptr;
};

inline void WaitForBlocks() {
    if (TheCore().blocks > 1) CurrentLaunch()->Suspend();
}

}  // namespace ascendc_host

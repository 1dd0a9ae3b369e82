"""NPU generators: seeds, offsets, state; the CPU's own random numbers stay undisturbed."""

from __future__ import annotations

from types import ModuleType


def test_a_seed_gives_the_same_numbers_again_and_another_seed_others(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    torch.npu.manual_seed(7)
    first = [
        torch.rand(100, device="npu"),
        torch.randn(100, device="npu"),
        torch.randint(0, 99, (50,), device="npu"),
        torch.empty(64, device="npu").exponential_(),
        torch.randperm(30, device="npu"),
    ]
    torch.npu.manual_seed(7)
    again = [
        torch.rand(100, device="npu"),
        torch.randn(100, device="npu"),
        torch.randint(0, 99, (50,), device="npu"),
        torch.empty(64, device="npu").exponential_(),
        torch.randperm(30, device="npu"),
    ]
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(first, again, strict=True))
    torch.npu.manual_seed(8)
    assert not torch.equal(torch.rand(100, device="npu").cpu(), first[0].cpu())


def test_consecutive_draws_differ(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    torch.npu.manual_seed(1)
    assert not torch.equal(torch.rand(100, device="npu").cpu(), torch.rand(100, device="npu").cpu())


def test_state_can_be_saved_and_restored(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    torch.npu.manual_seed(3)
    torch.rand(5, device="npu")
    state = torch.npu.get_rng_state()
    expected = torch.rand(10, device="npu").cpu()
    torch.rand(10, device="npu")
    torch.npu.set_rng_state(state)
    assert torch.equal(torch.rand(10, device="npu").cpu(), expected)


def test_own_generators_are_independent_of_each_other(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    a, b = torch.Generator("npu").manual_seed(5), torch.Generator("npu").manual_seed(5)
    x = torch.rand(20, device="npu", generator=a).cpu()
    torch.rand(20, device="npu")
    assert torch.equal(torch.rand(20, device="npu", generator=b).cpu(), x)
    assert not torch.equal(torch.rand(20, device="npu", generator=a).cpu(), x)


def test_the_cpus_generator_is_not_touched(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    torch.manual_seed(11)
    expected = torch.rand(10)
    torch.manual_seed(11)
    torch.rand(10, device="npu")
    torch.nn.functional.dropout(torch.ones(100, device="npu"), 0.5)
    torch.multinomial(torch.ones(10, device="npu"), 3)
    assert torch.equal(torch.rand(10), expected)


def test_dropout_follows_the_npu_seed(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    results = []
    for _ in range(2):
        torch.npu.manual_seed(2)
        results.append(torch.nn.functional.dropout(torch.ones(200, device="npu"), 0.5).cpu())
    assert torch.equal(*results) and 0 < results[0].count_nonzero() < 200


def test_uniform_numbers_are_uniform(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    torch.npu.manual_seed(0)
    # 200 draws of 50: a seed that hardly differed from draw to draw would show in the mean of the first elements.
    draws = torch.stack([torch.rand(50, device="npu") for _ in range(200)]).cpu()
    assert abs(float(draws[:, 0].mean()) - 0.5) < 0.1 and abs(float(draws.mean()) - 0.5) < 0.02

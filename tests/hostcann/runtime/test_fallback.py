"""The aten fallback: aliasing, in-place, out, lists, strides, dtypes, refusals."""

from __future__ import annotations

from types import ModuleType

import pytest


def test_views_alias_the_npu_storage(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    a = torch.arange(24.0, device="npu").view(4, 6)
    for view in (
        a[1:3],
        a.t(),
        a.unsqueeze(0),
        a.reshape(2, 12),
        a.permute(1, 0),
        a.expand(2, 4, 6),
        a.select(0, 1),
        a.narrow(1, 2, 3),
        a.view(-1),
        a.diagonal(),
        a.unfold(0, 2, 1),
        a.chunk(2)[1],
        a.split(2)[1],
        a.movedim(0, 1),
        a.flatten(),
        a.detach(),
        a.squeeze(),
        a.contiguous(),
        a.to("npu"),
        a.unbind()[2],
    ):
        assert view.device.type == "npu"
        assert view.untyped_storage().data_ptr() == a.untyped_storage().data_ptr()
    a[1:3].zero_()
    assert a.cpu()[1:3].eq(0).all() and a.cpu()[0].eq(torch.arange(6.0)).all()
    a.t()[0] = 5
    assert a.cpu()[:, 0].eq(5).all()


def test_in_place_operators_return_their_argument_and_keep_its_memory(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    a = torch.ones(3, 3, device="npu")
    address = a.data_ptr()
    assert a.add_(1) is a and a.mul_(torch.full((3, 3), 2.0, device="npu")) is a
    assert a.data_ptr() == address and a.cpu().eq(4).all()
    a.clamp_(max=3).index_fill_(0, torch.tensor([1], device="npu"), 7.0)
    assert a.cpu().tolist() == [[3.0] * 3, [7.0] * 3, [3.0] * 3]


def test_out_arguments_are_written_and_resized(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    a = torch.arange(6.0, device="npu").view(2, 3)
    out = torch.empty(2, 3, device="npu")
    address = out.data_ptr()
    assert torch.add(a, a, out=out) is out and out.data_ptr() == address
    assert out.cpu().tolist() == [[0, 2, 4], [6, 8, 10]]
    empty = torch.empty(0, device="npu")
    torch.mul(a, 3, out=empty)
    assert empty.device.type == "npu" and empty.cpu().tolist() == [[0, 3, 6], [9, 12, 15]]
    values, indices = torch.empty(0, device="npu"), torch.empty(0, dtype=torch.int64, device="npu")
    torch.max(a, 1, out=(values, indices))
    assert values.cpu().tolist() == [2, 5] and indices.cpu().tolist() == [2, 2]


def test_lists_and_optional_tensors(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    a = torch.arange(12.0, device="npu").view(3, 4)
    assert torch.cat([a, a[:1]]).cpu().shape == (4, 4)
    assert torch.stack([a, a], 2).cpu()[1, 2].tolist() == [6, 6]
    rows, columns = torch.tensor([0, 2], device="npu"), torch.tensor([1, 3], device="npu")
    assert a[rows, columns].cpu().tolist() == [1, 11]
    assert a[:, columns].cpu().tolist() == [[1, 3], [5, 7], [9, 11]]
    a[rows] = torch.zeros(2, 4, device="npu")
    assert a.cpu().sum() == 4 + 5 + 6 + 7
    torch._foreach_add_([a, a], 1)
    assert a.cpu()[0].tolist() == [2, 2, 2, 2]
    clipped = torch.clamp(a, min=torch.full((4,), 3.0, device="npu"))
    assert clipped.cpu().min() == 3


@pytest.mark.parametrize("source", ["float32", "float16", "bfloat16", "int32", "int64", "bool", "uint8"])
@pytest.mark.parametrize("target", ["float32", "bfloat16", "int64", "int32", "bool"])
def test_conversions(torch_on_npu: ModuleType, source: str, target: str) -> None:
    torch = torch_on_npu
    values = torch.tensor([0, 1, 2, 3, 100]).to(getattr(torch, source))
    expected = values.to(getattr(torch, target))
    for result in (
        values.npu().to(getattr(torch, target)),
        values.to("npu", getattr(torch, target)),
        torch.empty(5, dtype=getattr(torch, target), device="npu").copy_(values),
    ):
        assert result.device.type == "npu" and result.dtype == expected.dtype
        assert torch.equal(result.cpu(), expected)
    back = torch.empty(5, dtype=getattr(torch, target)).copy_(values.npu())
    assert torch.equal(back, expected)


def test_copies_with_strides_and_broadcasting(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    host = torch.arange(24.0).view(4, 6)
    npu = host.npu()
    assert torch.equal(host.t().npu().cpu(), host.t())
    assert host.t().npu().stride() == host.t().stride()
    assert torch.equal(npu[:, ::2].cpu(), host[:, ::2])
    target = torch.zeros(4, 6, device="npu")
    target[:, 1::2] = host[:, 1::2]
    assert torch.equal(target.cpu()[:, 1::2], host[:, 1::2]) and target.cpu()[:, ::2].eq(0).all()
    target.copy_(torch.tensor([7.0]))
    assert target.cpu().eq(7).all()
    overlapping = torch.arange(10.0, device="npu")
    overlapping[1:].copy_(overlapping[:-1].clone())
    assert overlapping.cpu().tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_a_cpu_tensor_is_only_accepted_as_a_number(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    a = torch.ones(3, device="npu")
    assert (a + torch.tensor(2.0)).cpu().tolist() == [3, 3, 3]
    with pytest.raises(RuntimeError, match="npu:0 and cpu"):
        a + torch.ones(3)
    with pytest.raises(RuntimeError, match="npu:0 and cpu"):
        torch.cat([a, torch.ones(3)])
    with pytest.raises(RuntimeError, match="npu:0 and cpu"):
        torch.where(torch.ones(3, dtype=torch.bool), a, a)


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
def test_matrix_products_of_undocumented_types_are_refused(torch_on_npu: ModuleType, dtype: str) -> None:
    torch = torch_on_npu
    a = torch.ones(2, 2, device="npu").to(getattr(torch, dtype))
    for product in (lambda: a @ a, lambda: torch.nn.functional.linear(a, a), lambda: torch.bmm(a[None], a[None])):
        with pytest.raises(RuntimeError, match="161002"):
            product()


def test_factories_go_to_the_device_they_are_asked_for(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    for made in (
        torch.zeros(3, device="npu"),
        torch.ones(3, device="npu"),
        torch.arange(3, device="npu"),
        torch.full((3,), 2.5, device="npu"),
        torch.linspace(0, 1, 3, device="npu"),
        torch.eye(3, device="npu"),
        torch.randn(3, device="npu"),
        torch.zeros_like(torch.ones(3, device="npu")),
        torch.tensor([1, 2, 3], device="npu"),
        torch.tril(torch.ones(3, 3, device="npu")),
    ):
        assert made.device.type == "npu"
    assert torch.arange(2, 9, 3, device="npu").cpu().tolist() == [2, 5, 8]


def test_a_result_survives_its_inputs_and_is_independent_of_them(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    a = torch.ones(1000, device="npu")
    b = a * 2
    c = a.clone()
    del a
    filler = [torch.full((1000,), 9.0, device="npu") for _ in range(10)]
    assert b.cpu().eq(2).all() and c.cpu().eq(1).all() and len(filler) == 10


def test_results_satisfy_torch_npus_own_operators(torch_on_npu: ModuleType) -> None:
    """torch-npu reads its storage description of tensors that the fallback made."""
    torch = torch_on_npu
    import torch_npu

    made = torch.ones(4, 8, device="npu") * 2
    assert torch_npu.get_npu_format(made) == 2
    made.resize_(2, 8)
    assert made.cpu().eq(2).all()
    made.data = torch.zeros(3, device="npu") + 1
    assert made.cpu().tolist() == [1, 1, 1]
    assert made.untyped_storage().nbytes() == 12


def test_inference_mode_and_threads(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    from concurrent.futures import ThreadPoolExecutor

    with torch.inference_mode():
        a = torch.ones(64, 64, device="npu")
        assert (a @ a).cpu().eq(64).all() and (a + a).is_inference()

    def work(seed: int) -> float:
        x = torch.full((64,), float(seed), device="npu")
        for _ in range(100):
            x = x + 1 - 1
        return float(x.sum())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [64.0 * i for i in range(8)]

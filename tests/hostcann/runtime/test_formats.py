"""FRACTAL_NZ: tiles in memory, casts both ways, what takes such tensors and what refuses them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest

ND, NZ = 2, 29
TYPES = ["float16", "bfloat16", "int8"]


@pytest.fixture
def formats(torch_on_npu: ModuleType) -> Iterator[ModuleType]:
    """torch, with private formats allowed."""
    torch = torch_on_npu
    torch.npu.config.allow_internal_format = True
    yield torch
    torch.npu.config.allow_internal_format = False


def numbers(torch: ModuleType, dtype: str, *shape: int) -> Any:
    count = 1
    for size in shape:
        count *= size
    return (torch.arange(count) % 101 - 50).view(shape).to(getattr(torch, dtype))


def tiled(torch: ModuleType, matrices: Any) -> Any:
    """What the memory has to hold, element by element."""
    columns = 32 // matrices.element_size()
    *batch, height, width = matrices.shape
    shape = [*batch, -(-width // columns), -(-height // 16), 16, columns]
    expected = torch.zeros(shape, dtype=matrices.dtype)
    for row in range(height):
        for column in range(width):
            expected[..., column // columns, row // 16, row % 16, column % columns] = matrices[..., row, column]
    return expected


def memory_of(torch: ModuleType, tensor: Any) -> Any:
    """The storage as it is, which sizes and strides do not say."""
    import ctypes

    storage = tensor.untyped_storage()
    torch.npu.synchronize()
    return torch.frombuffer(bytearray(ctypes.string_at(storage.data_ptr(), storage.nbytes())), dtype=tensor.dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(16, 32), (33, 70), (1, 5), (3, 17, 40)])
def test_the_memory_holds_tiles_and_comes_back(formats: ModuleType, shape: tuple[int, ...], dtype: str) -> None:
    torch = formats
    import torch_npu

    plain = numbers(torch, dtype, *shape)
    cast = torch_npu.npu_format_cast(plain.npu(), NZ)
    expected = tiled(torch, plain)
    assert torch_npu.get_npu_format(cast) == NZ and (cast.shape, cast.dtype) == (plain.shape, plain.dtype)
    assert cast.untyped_storage().nbytes() == expected.numel() * plain.element_size()
    assert torch.equal(memory_of(torch, cast), expected.flatten())
    back = torch_npu.npu_format_cast(cast, ND)
    assert torch_npu.get_npu_format(back) == ND and back.untyped_storage().nbytes() == plain.nbytes
    assert torch.equal(memory_of(torch, back), plain.flatten())


def test_padding_is_paid_for(formats: ModuleType) -> None:
    torch = formats
    import torch_npu

    plain = numbers(torch, "int8", 1025, 1025).npu()
    before = torch.npu.memory_allocated()
    cast = torch_npu.npu_format_cast(plain, NZ)
    assert torch.npu.memory_allocated() - before >= 1040 * 1056 == cast.untyped_storage().nbytes()


def test_torch_npu_makes_none_unless_allowed(torch_on_npu: ModuleType) -> None:
    torch = torch_on_npu
    import torch_npu

    plain = numbers(torch, "float16", 32, 32)
    cast = torch_npu.npu_format_cast(plain.npu(), NZ)
    assert torch_npu.get_npu_format(cast) == ND and torch.equal(cast.cpu(), plain)


@pytest.mark.parametrize("dtype", TYPES)
def test_copies_convert(formats: ModuleType, dtype: str) -> None:
    """To the host and from it, on the device, to another type, of parts and of the transpose."""
    torch = formats
    import torch_npu

    plain, other = numbers(torch, dtype, 40, 50), numbers(torch, dtype, 40, 50) + 1
    cast = torch_npu.npu_format_cast(plain.npu(), NZ)
    assert torch.equal(cast.cpu(), plain) and torch.equal(cast.t().cpu(), plain.t())
    assert torch.equal(cast[3:7, 5:].cpu(), plain[3:7, 5:]) and torch.equal(cast.float().cpu(), plain.float())
    assert torch.equal(cast.t().contiguous().cpu(), plain.t()) and torch.equal(cast.clone().cpu(), plain)
    assert cast[33, 41].item() == plain[33, 41].item() and cast[39, 49].item() == plain[39, 49].item()
    target = torch.empty_like(plain).npu()
    assert torch.equal(target.copy_(cast).cpu(), plain)
    for source in (other, other.npu(), torch_npu.npu_format_cast(other.npu(), NZ)):
        cast.copy_(plain)
        cast.copy_(source)
        assert torch_npu.get_npu_format(cast) == NZ
        assert torch.equal(memory_of(torch, cast), tiled(torch, other).flatten())
    with pytest.raises(RuntimeError, match="a part of a tensor in FRACTAL_NZ"):
        cast[1:3].copy_(other[1:3])
    with pytest.raises(RuntimeError, match="a part of a tensor in FRACTAL_NZ"):
        cast.t().copy_(other.t())


def test_a_clone_of_whole_tiles_is_in_tiles(formats: ModuleType) -> None:
    """As torch-npu makes it, which copies the memory then; another one has plain values."""
    torch = formats
    import torch_npu

    plain = numbers(torch, "float16", 3, 32, 48)
    cast = torch_npu.npu_format_cast(plain.npu(), NZ)
    for tiles, values in ((cast, plain), (cast[1:], plain[1:]), (cast[2], plain[2])):
        clone = tiles.clone()
        assert torch_npu.get_npu_format(clone) == NZ and clone.data_ptr() != tiles.data_ptr()
        assert torch.equal(memory_of(torch, clone), tiled(torch, values).flatten())
    turned = cast.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    assert torch_npu.get_npu_format(turned) == ND and torch.equal(turned.cpu(), plain.transpose(1, 2))


def test_clones_that_torch_npu_gets_wrong_are_refused(formats: ModuleType) -> None:
    torch = formats
    import torch_npu

    cast = torch_npu.npu_format_cast(numbers(torch, "int8", 3, 32, 48).npu(), NZ)  # a third of the last tiles is empty
    for part in (cast[:, 3:7], cast[..., 16:], cast[1:], cast[1]):
        with pytest.raises(RuntimeError, match="a copy of a part of a tensor in FRACTAL_NZ"):
            part.clone()
    torch.npu.config.allow_internal_format = False
    with pytest.raises(RuntimeError, match=r"only while torch\.npu\.config\.allow_internal_format is set"):
        cast.clone()


def test_what_the_cast_of_aclop_touches_is_inside_its_buffers(formats: ModuleType) -> None:
    """Identity, asked without torch-npu in between."""
    torch = formats
    import ctypes

    from ascend_patch.hostcann import _loader

    acl, compiler = _loader.handle("ascendcl"), _loader.handle("acl_op_compiler")
    for name in ("aclCreateTensorDesc", "aclCreateDataBuffer"):
        getattr(acl, name).restype = ctypes.c_void_p
    source, target = numbers(torch, "float16", 33, 70).npu(), torch.zeros(5 * 48 * 16, dtype=torch.float16).npu()
    shape, memory = (33, 70), (5, 3, 16, 16)

    def side(dims: Any, stored: Any, form: int, tensor: Any, count: int) -> tuple[Any, Any]:
        def sizes(values: Any) -> Any:
            return (ctypes.c_int64 * len(values))(*values)

        description = ctypes.c_void_p(acl.aclCreateTensorDesc(1, len(dims), sizes(dims), ND))
        acl.aclSetTensorFormat(description, form)
        acl.aclSetTensorShape(description, len(stored), sizes(stored))
        address = ctypes.c_void_p(tensor.data_ptr() if tensor is not None else None)
        buffer = ctypes.c_void_p(acl.aclCreateDataBuffer(address, ctypes.c_size_t(count)))
        return (ctypes.c_void_p * 1)(description), (ctypes.c_void_p * 1)(buffer)

    def identity(read: tuple[Any, Any], written: tuple[Any, Any]) -> int:
        null = ctypes.c_void_p(None)
        code: int = compiler.aclopCompileAndExecute(b"Identity", 1, *read, 1, *written, null, 0, 0, null, null)
        torch.npu.synchronize()
        for descriptions, buffers in (read, written):
            acl.aclDestroyTensorDesc(ctypes.c_void_p(descriptions[0]))
            acl.aclDestroyDataBuffer(ctypes.c_void_p(buffers[0]))
        return code

    plain, tiles = 33 * 70 * 2, 48 * 80 * 2
    for read, written in (
        (side(shape, shape, ND, source, plain), side(shape, memory, NZ, target, 100)),
        (side(shape, shape, ND, source, 100), side(shape, memory, NZ, target, tiles)),
        (side(shape, memory, NZ, target, plain), side(shape, shape, ND, source, plain)),
        (side(shape, memory, NZ, target, tiles), side(shape, shape, ND, source, plain - 2)),
        (side(shape, shape, ND, None, 0), side(shape, memory, NZ, target, tiles)),
        (side(shape, shape, ND, None, 0), side(shape, shape, ND, None, 0)),
        (side(shape, shape, ND, source, 100), side(shape, shape, ND, target, 100)),
        (side((70, 33), shape, ND, source, plain), side(shape, memory, NZ, target, tiles)),
        (side(shape, shape, ND, source, plain), side((70, 33), memory, NZ, target, tiles)),
        (side(shape, (35, 70), ND, source, plain), side(shape, memory, NZ, target, tiles)),
        (side((70, 33), shape, ND, source, plain), side(shape, shape, ND, target, plain)),
    ):
        assert identity(read, written) != 0
    assert not target.any()
    read, written = side(shape, shape, ND, source, plain), side(shape, memory, NZ, target, tiles)
    assert identity(read, written) == 0
    assert torch.equal(target.cpu(), tiled(torch, source.cpu()).flatten())


def test_what_would_misread_tiles_refuses_them(formats: ModuleType) -> None:
    torch = formats
    import torch_npu

    plain = numbers(torch, "float16", 32, 48).npu()
    cast = torch_npu.npu_format_cast(plain, NZ)
    for compute in (
        lambda: cast + 1,
        lambda: cast.sum(),
        lambda: cast.mul_(2),
        lambda: torch.cat([plain, cast]),
        lambda: plain[[0]].index_add_(0, torch.tensor([0]).npu(), cast[:1]),
        lambda: torch.nn.functional.embedding(torch.tensor([1]).npu(), cast),
        lambda: cast[torch.tensor([1]).npu()],
    ):
        with pytest.raises(RuntimeError, match=r"private format 29 \(FRACTAL_NZ\).*npu_format_cast\(tensor, 2\)"):
            compute()
    with pytest.raises(RuntimeError, match="do not support internal format"):  # torch-npu itself
        torch.ops.npu.npu_swiglu(cast)
    with pytest.raises(RuntimeError, match="aclop compiler"):  # on the right-hand side only
        cast @ plain.t()


def test_other_types_are_refused(formats: ModuleType) -> None:
    torch = formats
    import torch_npu

    with pytest.raises(RuntimeError, match="hostcann keeps float16, bfloat16 and int8 in FRACTAL_NZ"):
        torch_npu.npu_format_cast(numbers(torch, "int32", 32, 32).npu(), NZ)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 5, 70])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_products(formats: ModuleType, rows: int, dtype: str, transposed: bool, biased: bool) -> None:
    """The very numbers that the same product of plain matrices gives, and through CANN's operator for tiles."""
    torch = formats
    import torch_npu

    from ascend_patch.hostcann import trace

    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 56, generator=generator).to(getattr(torch, dtype)).npu()
    weight = torch.randn(*((40, 56) if transposed else (56, 40)), generator=generator).to(x.dtype).npu()
    bias = torch.randn(40, generator=generator).to(x.dtype).npu() if biased else None
    tiles = torch_npu.npu_format_cast(weight, NZ)

    def product(matrix: Any) -> Any:
        if transposed:
            return torch.nn.functional.linear(x, matrix, bias)
        return x @ matrix if bias is None else torch.addmm(bias, x, matrix)

    expected = product(weight)
    with trace.recording() as counts:
        result = product(tiles)
        calls = counts()["aclnn"]
    assert list(calls) == ["aclnnAddmmWeightNz" if biased else "aclnnMatmulWeightNz"]
    if transposed:
        assert torch.equal(result.cpu(), expected.cpu())
    torch.testing.assert_close(result.cpu(), expected.cpu())


def test_a_weight_of_one_column_is_refused(formats: ModuleType) -> None:
    torch = formats
    import torch_npu

    tiles = torch_npu.npu_format_cast(numbers(torch, "float16", 1, 32).npu(), NZ)
    with pytest.raises(RuntimeError, match="allowed: more than one row and more than one column"):
        torch.nn.functional.linear(torch.ones(2, 32, dtype=torch.float16).npu(), tiles)


NEWER_CANN = """
from ascend_patch.hostcann import trace
torch.npu.config.allow_internal_format = True
plain = torch.arange(33 * 70, dtype=torch.float32).view(33, 70).half()
with trace.recording() as counts:
    cast = torch_npu.npu_format_cast(plain.npu(), 29)
    back = torch_npu.npu_format_cast(cast, 2)
    torch.npu.synchronize()
    calls = counts()["aclnn"]
assert torch_npu.get_npu_format(cast) == 29 and torch_npu.get_npu_format(back) == 2
assert cast.untyped_storage().nbytes() == 48 * 80 * 2
assert torch.equal(cast.cpu(), plain) and torch.equal(back.cpu(), plain)
print("cast by", *calls)
"""


def test_from_cann_9_1_on_the_cast_is_an_aclnn_operator(run: Any) -> None:
    """For a torch-npu of summer 2026 and later: 2.9.0.post9, 2.10.0.post7, 2.11.0.post3, 2.13 and 2.14, not 2.9.1."""
    operator = "Identity" if metadata.version("torch-npu") == "2.9.1" else "aclnnNpuFormatCast"
    assert f"cast by {operator}\n" in run(NEWER_CANN, HOSTCANN_CANN="9.1.0").stdout


ON_950 = """
torch.npu.config.allow_internal_format = True
plain = (torch.arange(32 * 48) % 101 - 50).view(32, 48).half()
cast, other = (torch_npu.npu_format_cast(values.npu(), 29) for values in (plain, plain + 1))
assert torch.equal(cast.cpu(), plain)
address = cast.data_ptr()
assert torch.equal(cast.copy_(other).cpu(), plain + 1) and torch_npu.get_npu_format(cast) == 29
assert cast.data_ptr() == address
part, turned, ints = cast[1:], other.t(), torch_npu.npu_format_cast(torch.ones(1, 48, dtype=torch.int8).npu(), 29)
for refused, says in (
    (lambda: cast.copy_(plain), "copies such a tensor to the host"),
    (lambda: cast.copy_(plain.npu()), "copies such a tensor to the host"),
    (lambda: plain.npu().copy_(cast), "copies such a tensor to the host"),
    (lambda: part.copy_(other[1:]), "copies such a tensor to the host"),
    (lambda: cast.clone(), "copies such a tensor to the host"),
    (lambda: turned.contiguous(), "copies such a tensor to the host"),
    (lambda: cast.float(), "copies such a tensor to the host"),
    (lambda: torch_npu.npu_format_cast(plain[:1].npu(), 29), "more than one row, for a cast of float16 or bfloat16"),
):
    try:
        refused()
    except RuntimeError as error:
        assert says in str(error), error
    else:
        raise AssertionError(says)
assert torch.equal(cast.cpu(), plain + 1) and torch.equal(ints.cpu(), torch.ones(1, 48, dtype=torch.int8))
print("refused on 950")
"""


def test_950_copies_tiles_to_the_host_or_to_the_same_tiles(run: Any) -> None:
    """What torch-npu and CANN say of the 950, where copies do not convert."""
    assert "refused on 950" in run(ON_950, HOSTCANN_SOC="Ascend950PR_9589").stdout

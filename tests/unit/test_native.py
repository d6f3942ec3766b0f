"""Whether inner loops run in C: with a compiler that works, without one, and with one that does not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from compiler import needs_compiler
from headway.nn import coefficients, coefficients_in_c, edges, edges_in_c, native, scan_in_c
from headway.nn.gated_scan import gated_scan, why_not_in_c
from headway.nn.triton_scan import kernel_name


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty one, and nothing tried yet; afterwards too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    forget()
    yield tmp_path / "headway"
    forget()


def forget() -> None:
    native._library.cache_clear()
    for module in (scan_in_c, edges_in_c, coefficients_in_c):
        module.problem.cache_clear()


def arguments() -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    shapes = (6, 2, 8), (6, 5, 16), (6, 5, 2), (16, 1, 4), (16,), (2,), (2,)
    z, mixed, d, taps, bias, A, D = (torch.rand(shape, generator=random) for shape in shapes)
    return z, mixed, d, taps, bias, -A, D


def changed(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, content: str) -> None:
    """Another content of one of the C files."""
    for header in native.HEADERS:
        (folder / header.name).write_text(header.read_text())
    (folder / name).write_text(content)
    others = [folder / name if path.name == name else path for path in native.SOURCES]
    assert others != native.SOURCES
    monkeypatch.setattr(native, "SOURCES", others)
    forget()


def source_of(name: str) -> str:
    return next(path for path in native.SOURCES if path.name == name).read_text()


@needs_compiler
def test_it_is_compiled_once_and_kept(cache_folder: Path) -> None:
    assert not why_not_in_c() and kernel_name("cpu", "fp32") == "native, in C"
    (made,) = cache_folder.iterdir()
    written = made.stat().st_mtime_ns
    forget()
    assert not why_not_in_c()
    assert [path.stat().st_mtime_ns for path in cache_folder.iterdir()] == [written]


@needs_compiler
@pytest.mark.parametrize("name", [path.name for path in native.SOURCES])
def test_another_source_is_compiled_anew(
    name: str, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not why_not_in_c()
    changed(monkeypatch, tmp_path, name, source_of(name) + "/* changed */\n")
    assert not why_not_in_c() and len(list(cache_folder.iterdir())) == 2


def test_without_a_compiler_torch_does_the_same_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = gated_scan(*arguments())
    forget()
    monkeypatch.setenv("CC", "no-such-compiler -v")
    with caplog.at_level(logging.INFO):
        found = gated_scan(*arguments())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert kernel_name("cpu", "fp32") == "native"
    (said,) = caplog.messages
    assert said.startswith("the scan: torch's operations, not C: ") and "no-such-compiler" in said


@needs_compiler
def test_what_does_not_compile_is_said_by_the_compiler_and_leaves_nothing(
    cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    changed(monkeypatch, tmp_path, "scan_in_c.c", "int broken(;\n")  # one library, tried once
    with caplog.at_level(logging.INFO):
        assert why_not_in_c() and edges.why_not_in_c()
    assert caplog.text.count("scan_in_c.c:1") == 2
    assert not list(cache_folder.iterdir())


@needs_compiler
@pytest.mark.parametrize("left", [0, 64, 5000])
def test_half_a_file_in_the_cache_is_made_again(cache_folder: Path, left: int) -> None:
    assert not why_not_in_c()
    (made,) = cache_folder.iterdir()
    whole = made.read_bytes()
    made.unlink()  # it is mapped
    made.write_bytes(whole[:left])
    forget()
    assert not why_not_in_c()
    assert made.read_bytes() == whole


@needs_compiler
def test_other_arguments_of_the_compiler_make_another_file(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not why_not_in_c()
    monkeypatch.setenv("CC", "cc -DNOTHING")
    forget()
    assert not why_not_in_c() and len(list(cache_folder.iterdir())) == 2


def test_a_folder_where_others_may_write_is_not_run_from(cache_folder: Path) -> None:
    cache_folder.mkdir()
    cache_folder.chmod(0o777)
    assert "others may write here" in why_not_in_c()
    assert not list(cache_folder.iterdir())


def test_a_cache_folder_that_cannot_be_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert why_not_in_c()
    assert gated_scan(*arguments()).isfinite().all()


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong", "what"),
    [
        ("float sum = 0.0f;", "float sum = 0.01f;", "values"),
        ("sum_D[e] += ", "sum_D[e] -= ", "gradients of D"),
        ("sqrtf(squares / s.width + EPS)", "sqrtf(-squares)", "values"),
    ],
)
def test_loops_that_give_other_numbers_are_not_used(
    right: str,
    wrong: str,
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = source_of("scan_in_c.c")
    assert right in source
    changed(monkeypatch, tmp_path, "scan_in_c.c", source.replace(right, wrong))
    assert not edges.why_not_in_c()
    assert f"compiled on this machine, its {what} are off by" in why_not_in_c()
    assert gated_scan(*arguments()).isfinite().all()


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong", "what"),
    [
        ("out[k] += q[i] *", "out[k] -= q[i] *", "dots"),
        ("PICK(a, b, EVEN) +", "PICK(a, b, EVEN) -", "dots"),
        ("sums[i] += weight *", "sums[i] += 1.001f * weight *", "sums"),
        ("w[who[k] * weights_apart + column[k]]", "w[who[k] * weights_apart]", "sums back"),
        ("theirs = (of - sensor) * inner + i;", "theirs = i;", "dots"),
        ("w + theirs * neighbors", "w + i * neighbors", "sums back"),
    ],
)
def test_sums_along_edges_that_are_others_are_not_used(
    right: str, wrong: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of("edges_in_c.c")
    assert right in source
    changed(monkeypatch, tmp_path, "edges_in_c.c", source.replace(right, wrong))
    assert f"compiled on this machine, its {what} are off by" in edges.why_not_in_c()
    assert not why_not_in_c()


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong", "what"),
    [
        ("sum += row[i]", "sum += 1.001f * row[i]", "shares"),
        ("2.0f * sigmoid(2.0f *", "2.0f * sigmoid(", "signs"),
        ("sign[step + i] * kept[i]", "sign[step + i]", "coefficients"),
        ("(x[i] - along)", "x[i]", "gradients of scores"),
        ("sum_y[i] += ", "sum_y[i] = ", "gradients of what is usual"),
    ],
)
def test_coefficients_that_are_others_are_not_used(
    right: str, wrong: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of("coefficients_in_c.c")
    assert right in source
    changed(monkeypatch, tmp_path, "coefficients_in_c.c", source.replace(right, wrong))
    assert f"compiled on this machine, its {what} are off by" in coefficients.why_not_in_c()
    assert not why_not_in_c() and not edges.why_not_in_c()


@needs_compiler
@pytest.mark.parametrize(
    ("which", "shape"),
    [(0, (6, 6, 8)), (0, (7, 2, 8)), (2, (6, 5, 3)), (3, (15, 1, 4)), (4, (15,)), (5, (1,)), (6, (3,))],
)
def test_shapes_that_do_not_belong_together_are_not_read(which: int, shape: tuple[int, ...]) -> None:
    given = list(arguments())
    given[which] = torch.ones(shape)
    with pytest.raises((AssertionError, TypeCheckError)):
        scan_in_c.ScanInC.apply(*given)


@needs_compiler
def test_second_derivatives_are_refused_not_lost() -> None:
    given = [x.requires_grad_() for x in arguments()]
    (grad, *_) = torch.autograd.grad(gated_scan(*given).square().sum(), given, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@needs_compiler
def test_another_device_and_other_precisions_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not why_not_in_c()
    called: list[str] = []
    monkeypatch.setattr(native, "call", lambda name, *_: called.append(name))
    with native.planned_for("cuda"):
        gated_scan(*arguments())
    gated_scan(*(x.double() for x in arguments()))
    assert not called
    gated_scan(*arguments())
    assert called == ["scan"]

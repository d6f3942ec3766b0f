"""The dot products of attention as every machine makes them."""

from __future__ import annotations

import pytest

from compiler import needs_compiler
from headway.nn import edges


@pytest.fixture(
    params=[pytest.param("as on a CPU", marks=needs_compiler), "gradient of a bag", "gather"],
)
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test that asks for it runs with the dot products of a CPU, of a GPU, and of neither.

    On a CPU what is float32 runs in C; what is float64 takes the way of a GPU.
    """
    assert edges._BAG_GRADIENT is not None
    if request.param == "as on a CPU":
        assert not edges.why_not_in_c()
        return request.param
    monkeypatch.setattr(edges, "why_not_in_c", lambda: "left out")
    if request.param == "gather":
        monkeypatch.setattr(edges, "_BAG_GRADIENT", None)
    return request.param

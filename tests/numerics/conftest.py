"""The dot products of attention as every machine makes them."""

from __future__ import annotations

import pytest

from headway.nn import neighbor_table
from tiny_model import without_sparse_product


@pytest.fixture(params=["sparse product", "gradient of a bag", "gather"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test that asks for it runs with the dot products of a CPU, of a GPU, and of neither."""
    if request.param != "sparse product":
        monkeypatch.setattr(neighbor_table, "_sparse_product", without_sparse_product)
    if request.param == "gather":
        monkeypatch.setattr(neighbor_table, "_BAG_GRADIENT", None)
    else:
        assert neighbor_table._BAG_GRADIENT is not None
    return request.param

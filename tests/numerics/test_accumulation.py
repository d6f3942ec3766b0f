"""The update of a group does not depend on how the group is cut to fit in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from headway.data.prepared import Prepared
from headway.data.windows import Windows
from headway.models import build
from headway.models.standardized import Standardized
from headway.objectives.forecast_loss import absolute_error
from headway.training.course import Course
from headway.training.experiment import _graph
from headway.training.loop import take_step
from headway.training.optimizer import make_optimizer
from headway.training.precision import Precision
from headway.training.run import Run
from headway.training.state import TrainingState
from tiny_run import RUNTIME, SECTIONS, tiny_data, train_params

FP32 = Precision(name="fp32", device_type="cpu")
PARAMS = train_params(batch_size=32, clip_norm=0.0, anchor_pull=0.5)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Half of the readings of the second sensor are missing, so that windows hold different counts."""
    random = np.random.default_rng(0)
    readings = 50 + random.normal(0, 5, (200, 4))
    readings[random.random((200, 4)) < [0.0, 0.5, 0.1, 0.0]] = np.nan
    return tiny_data(tmp_path_factory.mktemp("data"), readings=readings.astype(np.float32))


def fresh_model(prepared: Prepared) -> Standardized:
    """Without dropout, whose masks differ between cuts."""
    sections = {
        **SECTIONS,
        "st_mamba": replace(SECTIONS["st_mamba"], dropout=0.0),
        "ha_gat": replace(SECTIONS["ha_gat"], attention_dropout=0.0),
    }
    torch.manual_seed(0)
    scale = [torch.from_numpy(prepared.scaler[name]) for name in ("mean", "std")]
    model = build(SECTIONS["model"], sections, prepared.meta, _graph(prepared, SECTIONS), *scale)
    for parameter in model.parameters():  # the last layer starts at zero and would hide the others
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def gradients_of_a_step(
    prepared: Prepared, micro_batch: int, origins: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, torch.Tensor], TrainingState, float]:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / str(micro_batch)))
    model = fresh_model(prepared)
    state = TrainingState(
        model, make_optimizer(model, PARAMS.lr, PARAMS.weight_decay), FP32.gradient_scaler()
    )
    course, runtime = Course(PARAMS, prepared.meta.splits), replace(RUNTIME, micro_batch=micro_batch)
    with Run("train", {"code": ""}, runtime) as run:
        loss = take_step(state, Windows(prepared), origins, course, FP32, run)
    named = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return named, state, loss


@pytest.mark.parametrize("micro_batch", [1, 5, 16])
def test_a_group_cut_in_pieces_has_the_gradient_of_the_whole(
    micro_batch: int, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origins = Course(PARAMS, prepared.meta.splits).origins(0)
    assert len(origins) == 32
    whole, _, loss = gradients_of_a_step(prepared, 32, origins, tmp_path, monkeypatch)
    pieces, _, cut_loss = gradients_of_a_step(prepared, micro_batch, origins, tmp_path, monkeypatch)
    assert cut_loss == pytest.approx(loss, rel=1e-5)
    assert whole.keys() == pieces.keys() and len(whole) > 20
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_the_gradient_is_that_of_the_mean_error_over_all_observed_targets_of_the_group(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origins = Course(PARAMS, prepared.meta.splits).origins(1)
    found, _, loss = gradients_of_a_step(prepared, 3, origins, tmp_path, monkeypatch)
    model, windows = fresh_model(prepared), Windows(prepared)
    batch = model.standardize(windows.gather(origins))
    error = absolute_error(model.forecast_standard(batch), batch) / batch.target_observed.sum()
    assert loss == pytest.approx(error.item(), rel=1e-5)
    assert model.mix is not None
    (error + PARAMS.anchor_pull * model.mix.pull()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_the_last_smaller_group_of_a_pass_is_an_update_like_any_other(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brief A's loop stepped after full groups only, so the last windows of each epoch trained nothing."""
    course = Course(replace(PARAMS, epoch_steps=0), prepared.meta.splits)
    last = course.origins(course.epoch_steps - 1)
    assert 0 < len(last) < PARAMS.batch_size
    seen = np.concatenate([course.origins(step) for step in range(course.epoch_steps)])
    assert sorted(seen) == list(range(*prepared.meta.splits["train"]))
    before = fresh_model(prepared).state_dict()
    _, state, _ = gradients_of_a_step(prepared, 32, last, tmp_path, monkeypatch)
    assert state.progress.updates == 1
    assert any(not torch.equal(before[name], tensor) for name, tensor in state.model.state_dict().items())


def test_a_group_without_a_reading_changes_nothing_and_is_counted(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = replace(prepared, observed=np.zeros_like(prepared.observed))
    before = fresh_model(blind).state_dict()
    gradients, state, loss = gradients_of_a_step(blind, 8, np.arange(60, 70), tmp_path, monkeypatch)
    assert math.isnan(loss) and not gradients
    assert (state.progress.step, state.progress.updates, state.progress.epoch_count) == (1, 0, 0)
    for name, tensor in state.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_only_matrices_decay(prepared: Prepared) -> None:
    model = fresh_model(prepared)
    groups = make_optimizer(model, PARAMS.lr, PARAMS.weight_decay).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay: dict[str, float] = {
        names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]
    }
    assert decay.keys() == set(names.values()) and set(decay.values()) == {0.0, PARAMS.weight_decay}
    for part in ("A_log", "dt_bias", ".D", "embedding.node.weight", "norm.weight", ".bias"):
        assert any(part in name for name in decay), part
        assert not any(value for name, value in decay.items() if part in name), part
    for part in ("widen.weight", "in_proj.weight", "head.out.weight"):
        assert all(value for name, value in decay.items() if part in name), part

"""Every fault that the design lists has a test.

A test is named after its fault: test_fault_17_..., or test_faults_55_and_60_... The numbers are those of the faults a
run that lasts for days must survive: 1-14 process and machine, 15-24 storage, 25-33 configuration and code, 34-39
numerics, 40-54 data, 55-63 hostile input.
"""

from __future__ import annotations

import ast
import re
from itertools import chain
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
FAULTS = range(1, 64)
ELSEWHERE = {
    30: ["contract/test_dvc_yaml.py::test_a_stage_depends_on_the_files_it_imports_and_on_no_other"],
    38: [
        "numerics/test_heads.py::test_weights_sum_to_one_and_deviations_stay_within_their_bounds",
        "numerics/test_heads.py::test_a_reading_far_off_leaves_gradients_finite",
        "unit/test_collapse.py::test_training_on_readings_that_stood_still_warns_of_spikes_in_log_and_notes",
    ],
    39: ["numerics/test_accumulation.py::test_a_group_cut_in_pieces_has_the_gradient_of_the_whole"],
    43: ["unit/test_prepare.py::test_a_changed_clock_neither_loses_nor_repeats_a_step"],
    44: ["unit/test_raw.py::test_a_bare_offset_is_no_zone_until_declared"],
    53: [
        "unit/test_forecaster_refusals.py::test_readings_that_cannot_be_used_are_refused_with_a_sentence",
        "unit/test_forecaster.py::test_a_table_of_the_history_alone_is_enough_and_missing_rows_are_unobserved",
    ],
}


def faults_of(path: Path) -> set[int]:
    names = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    spoken = [re.match(r"test_faults?_((?:\d+_(?:and_)?)+)", name) for name in names]
    return {int(number) for found in spoken if found for number in re.findall(r"\d+", found[1])}


def test_every_fault_has_a_test() -> None:
    here = set[int]().union(*(faults_of(path) for path in Path(__file__).parent.glob("test_*.py")))
    assert here | set(ELSEWHERE) == set(FAULTS)
    assert not here & set(ELSEWHERE), "tested after all: say so above"


def test_the_tests_that_are_elsewhere_exist() -> None:
    for place in chain.from_iterable(ELSEWHERE.values()):
        file, name = place.split("::")
        assert f"def {name}(" in (TESTS / file).read_text(), place

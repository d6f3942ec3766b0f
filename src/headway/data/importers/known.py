"""What is known of published data sets: shapes, checksums, and what their files do not say themselves.

Sources: the data sets' papers and loaders for shapes; public copies for checksums (SHA-256 of the bytes, or the
git blob id, which is the SHA-1 of a header and the bytes). A difference is worth a sentence, not an error.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from headway.data.facts import DatasetFacts

CHUNK = 2**22
PACIFIC = "America/Los_Angeles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One published data set.

    Attributes:
        stems: file names without suffix, lower case, under which it goes around.
        shape: (steps, sensors).
        start: civil time of the first row, where the file has no times.
        distance_unit: of its list of distances; no file states it.
    """

    name: str
    stems: tuple[str, ...]
    shape: tuple[int, int]
    facts: DatasetFacts
    start: str = ""
    distance_unit: str = ""


def _flow(zone: str) -> DatasetFacts:
    return DatasetFacts(
        unit="vehicles/5 min", variable="flow", time_zone=zone, split="6-2-2", step_minutes=5.0
    )


def _speed(zone: str, null: float | None) -> DatasetFacts:
    return DatasetFacts(unit="mph", variable="speed", time_zone=zone, null_value=null, step_minutes=5.0)


# METR-LA and PEMS03 have 288 rows on every day, those of the clock changes too: their clock is taken as written.
DATA_SETS = (
    Known(
        name="METR-LA",
        stems=("metr-la", "metr_la", "metrla"),
        shape=(34272, 207),
        start="2012-03-01",
        facts=_speed("UTC", 0.0),
    ),
    Known(
        name="PEMS-BAY",
        stems=("pems-bay", "pems_bay", "pemsbay"),
        shape=(52116, 325),
        start="2017-01-01",
        facts=_speed(PACIFIC, 0.0),
    ),
    Known(
        name="PEMS03",
        stems=("pems03",),
        shape=(26208, 358),
        start="2018-09-01",
        distance_unit="km",
        facts=_flow("UTC"),
    ),
    Known(
        name="PEMS04",
        stems=("pems04",),
        shape=(16992, 307),
        start="2018-01-01",
        distance_unit="m",
        facts=_flow(PACIFIC),
    ),
    Known(
        name="PEMS07",
        stems=("pems07",),
        shape=(28224, 883),
        start="2017-05-01",
        distance_unit="km",
        facts=_flow(PACIFIC),
    ),
    Known(
        name="PEMS08",
        stems=("pems08",),
        shape=(17856, 170),
        start="2016-07-01",
        distance_unit="m",
        facts=_flow(PACIFIC),
    ),
    Known(
        name="PeMSD7(M)",
        stems=("pemsd7_v_228", "v_228"),
        shape=(12672, 228),
        start="2012-05-01",
        distance_unit="m",
        facts=DatasetFacts(unit="mph", variable="speed", time_zone=PACIFIC, step_minutes=5.0),
    ),
    Known(
        name="HungaryChickenpox",
        stems=("chickenpox",),
        shape=(521, 20),
        start="2005-01-03",
        facts=DatasetFacts(
            unit="standard deviations", variable="cases", time_zone="UTC", step_minutes=10080.0, licence="MIT"
        ),
    ),
    Known(
        name="MontevideoBus",
        stems=("montevideo_bus",),
        shape=(744, 675),
        start="2020-10-01",
        facts=DatasetFacts(
            unit="boardings/h", variable="boardings", time_zone="America/Montevideo", step_minutes=60.0
        ),
    ),
    Known(
        name="WindmillLarge",
        stems=("windmill_output", "windmill_output_large"),
        shape=(17472, 319),
        facts=DatasetFacts(variable="output", time_zone="UTC", step_minutes=60.0),
    ),
)

CHECKSUMS = {  # file name, lower case -> what public copies of it hash to
    "metr-la.h5": ("git:7df0003054d1bccd255d38949b2ef011dcadad3f",),
    "pems03.npz": ("git:b4487154fc9611a3bf9856b0aad34efa610ea8ae",),
    "pems04.npz": (
        "git:a1a39eac4b86963b1ac22874fd1cc693eb642cd2",
        "sha256:95a3c9b720fffdb85f0330d09bfab41b0b3cad0ca86c0d7d5f3accacb4ac999a",
    ),
    "pems07.npz": (
        "git:28c547f80eb8804d3e378168c80f77f82db2680a",
        "sha256:a07887e610aa986276209bc9384d14ed7858fdcad1ded67f53dca19eb828600b",
    ),
    "pems08.npz": (
        "git:f5f3e84a00417573aa8487fe1e9e8cd13c6026c8",
        "sha256:e1d03ce74e9fb79149e6e7c37c680214822c4a285baa2f42278cacabcd25c075",
    ),
    "pems03.csv": ("sha256:b978bc1fee8172ac0bb02e6478f0376b68d172ee88c0c3121c60241e42c89fc6",),
    "pems04.csv": ("sha256:68ffaa80447eb34428a9999dc28363c61406ec0fd714686d0582d2386ac6f5f7",),
    "pems07.csv": ("sha256:f7d127ebf976f1e2d93dc7d7275cef6d8c4c1828c7c8bfbaf3ee1254491314f1",),
    "pems08.csv": ("sha256:859d68e7583ed4e6016588eaaca494d3ece286dae361614c5c1833017f87eaa7",),
    "adj_mx.pkl": ("sha256:a35687c6e15aa228dc45027b0ed2a0ea0f4ec78f573deb992c595092d12f61b3",),
    "adj_mx_bay.pkl": ("sha256:116275f5704d0d492018e14c047f7ae5004385b450aa907f88424055a4a97370",),
    "graph_sensor_locations.csv": (
        "sha256:eb8ea96e07358b45d0e4ba3b89c2673fa20c54af50150249e627389e749ade6f",
    ),
    "pems-bay.zip": ("git:78618384cc8d7e0e0d99fc15b021dad8cbbf4da2",),
    "pemsd7_full.zip": ("git:cdd7a6f80f6a33826bf25646e21d68cf0420b584",),
    "distances_la_2012.csv": ("git:759d2bc751c89b91fd63dc1fc8ceba904a85b1c2",),
    "distances_bay_2017.csv": ("sha256:e5feed06bfa1ba4c554a946d0e03d99f2018365eec5a8f28fd8504dea9d082b5",),
    "pemsd7_w_228.csv": ("sha256:c558c602b7937fb3ecb3835938fe8f61a34efa4c51e0ae3f61ed93ecc680060e",),
    "chickenpox.json": ("sha256:724b48cfb274b2ecbb855bdb99b970b5ef9dd3671694fa477435dc1e08293735",),
    "montevideo_bus.json": ("sha256:37d9c6286d474077b5c05173c1570c4da42c387013116daa8862c7a6cab86a75",),
    "inflow.csv": ("git:132847f30665afec5f0b6dae2e8785a15d58a011",),  # ST-SepNet's Bike
    "outflow.csv": ("git:704c03f5df3f587ed9c6080c21a5b08d4bb25f71",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """Checksums of one file."""

    sha256: str
    git: str


def digest(path: Path) -> Digest:
    """SHA-256 and git blob id, in one pass."""
    plain, blob = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    blob.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            plain.update(chunk)
            blob.update(chunk)
    return Digest(sha256=plain.hexdigest(), git=blob.hexdigest())


def compare_bytes(path: Path) -> str:
    """A sentence where public copies of the file's name are known; "" where none are."""
    known = CHECKSUMS.get(path.name.lower())
    if known is None:
        return ""
    found = digest(path)
    if f"sha256:{found.sha256}" in known or f"git:{found.git}" in known:
        return f"{path.name}: the bytes of a known public copy"
    return f"{path.name}: not the bytes of a known public copy, SHA-256 {found.sha256}"


def recognize(path: Path, shape: tuple[int, int]) -> tuple[Known | None, str]:
    """The published data set that a file is, by its name, else by its shape, and a sentence on what differs."""
    for known in DATA_SETS:
        if path.stem.lower() in known.stems:
            return known, _compare_shapes(known, shape)
    for known in DATA_SETS:
        if known.shape == shape:
            return known, f"taken for {known.name} by its shape {_text(shape)}"
    return None, ""


def _compare_shapes(known: Known, shape: tuple[int, int]) -> str:
    if shape == known.shape:
        return f"{known.name}: {_text(shape)} steps x sensors, as published"
    return f"{known.name}: {_text(shape)} steps x sensors, published are {_text(known.shape)}"


def _text(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"

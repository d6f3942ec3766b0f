"""Where published data sets can be had. Whether a file is the published one, known.py tells by its checksum."""

from __future__ import annotations

from dataclasses import dataclass

DCRNN = "https://github.com/liyaguang/DCRNN/raw/602afd9d767d3aa1c9b3eac51710d6aeee12c227/data/sensor_graph"
DL_TRAFF = "https://github.com/deepkashiwa20/DL-Traff-Graph/raw/ccc038aeef05ffd43fab42e0752c8f94b90163a7"
ASTGNN = "https://github.com/guoshnBJTU/ASTGNN/raw/9c2e19b98c4cedf1f35214d8789685b6381b3aad/data"
STGCN = "https://github.com/VeritasYin/STGCN_IJCAI-18/raw/747007ab01d56762c1a6bad89b255700cedf204d/dataset"
PGT = "https://raw.githubusercontent.com/benedekrozemberczki/pytorch_geometric_temporal/master/dataset"
ST_SEPNET = (
    "https://github.com/jiawenchen10/ST-SepNet/raw/e1b4a02ca10a4cc4a56c4ad4c105445f33db6e9a/dataset/Bike"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Public:
    """A published data set.

    Attributes:
        files: their addresses; the last part is the name of the file.
        following: arguments of `import`, with {folder} for where the files lie.
        note: what to do before that; "" for nothing.
    """

    title: str
    files: tuple[str, ...]
    following: str
    note: str = ""


def _pems(name: str) -> Public:
    folder = f"{ASTGNN}/{name}/{name}"
    return Public(
        title=f"{name}, California, 5 minutes",
        files=(f"{folder}.npz", f"{folder}.csv"),
        following=f"pems-npz {{folder}}/{name}.npz --edges {{folder}}/{name}.csv",
    )


PUBLIC = {
    "metr-la": Public(
        title="METR-LA, Los Angeles, speed, 5 minutes, 2012",
        files=(f"{DL_TRAFF}/METRLA/metr-la.h5", f"{DCRNN}/adj_mx.pkl", f"{DCRNN}/graph_sensor_locations.csv"),
        following="metr-la {folder}/metr-la.h5 --edges {folder}/adj_mx.pkl "
        "--sensors {folder}/graph_sensor_locations.csv",
    ),
    "pems-bay": Public(
        title="PEMS-BAY, San Francisco Bay Area, speed, 5 minutes, 2017",
        files=(f"{DL_TRAFF}/PEMSBAY/pems-bay.zip", f"{DCRNN}/adj_mx_bay.pkl"),
        following="metr-la {folder}/pems-bay.h5 --edges {folder}/adj_mx_bay.pkl",
        note="unzip {folder}/pems-bay.zip -d {folder}",
    ),
    "pems03": _pems("PEMS03"),
    "pems04": _pems("PEMS04"),
    "pems07": _pems("PEMS07"),
    "pems08": _pems("PEMS08"),
    "pemsd7-m": Public(
        title="PeMSD7(M), California, speed, 5 minutes, weekdays of 2012",
        files=(f"{STGCN}/PeMSD7_Full.zip",),
        following="pemsd7 {folder}/PeMSD7_V_228.csv --edges {folder}/PeMSD7_W_228.csv",
        note="unzip {folder}/PeMSD7_Full.zip -d {folder}",
    ),
    "chickenpox": Public(
        title="chickenpox in Hungary, weekly cases",
        files=(f"{PGT}/chickenpox.json",),
        following="pgt-json {folder}/chickenpox.json",
    ),
    "montevideo-bus": Public(
        title="bus boardings in Montevideo, hourly, October 2020",
        files=(f"{PGT}/montevideo_bus.json",),
        following="pgt-json {folder}/montevideo_bus.json",
    ),
    "bike": Public(
        title="ST-SepNet's bikes, in and out of 295 stations, without their graph",
        files=(f"{ST_SEPNET}/inflow.csv", f"{ST_SEPNET}/outflow.csv"),
        following="st-sepnet {folder}",
    ),
}

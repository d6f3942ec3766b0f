"""The physics of the cell transmission model, against what kinematic-wave theory says by hand."""

from __future__ import annotations

import numpy as np
import pytest

from headway.data.road_conditions import daily_demand
from headway.data.road_network import build_network
from headway.data.traffic_flow import CRITICAL, Conditions, Road, Traffic

NONE = np.zeros(0, dtype=np.int64)


def straight_road(cells: int, *, free_share: float, wave_share: float = 0.2, bottleneck: int = -1) -> Road:
    """One corridor with capacity 10 a step (8 in the bottleneck), fed at boundary 0, open at its end."""
    sink = np.zeros(cells + 2, dtype=bool)
    sink[[0, -1]] = True
    capacity = np.where(sink, np.inf, 10.0)
    if bottleneck > 0:
        capacity[bottleneck] = 8.0
    return Road(
        sink=sink,
        capacity=capacity,
        free_share=np.where(sink, 0.0, free_share),
        wave_share=wave_share,
        priority=np.full(cells + 1, 0.8),
        ramp_capacity=np.full(cells + 1, np.inf),
        connector_from=NONE,
        connector_to=NONE,
        storage=np.zeros(0),
        patience=np.full(cells + 1, np.inf),
    )


def start(road: Road, vehicles: float | np.ndarray, arrivals: float = 0.0) -> Traffic:
    traffic = Traffic(road, np.where(road.sink, 0.0, vehicles))
    traffic.drive(steady(road, {0: arrivals}))
    return traffic


def steady(road: Road, arrivals: dict[int, float], exits: dict[int, float] | None = None) -> Conditions:
    boundaries = len(road.sink) - 1
    coming, leaving = np.zeros(boundaries), np.zeros(boundaries)
    for boundary, vehicles in arrivals.items():
        coming[boundary] = vehicles
    for boundary, share in (exits or {}).items():
        leaving[boundary] = share
    return Conditions(free_share=road.free_share, capacity=road.capacity, arrivals=coming, exit_share=leaving)


def run(traffic: Traffic, steps: int) -> None:
    for _ in range(steps):
        traffic.advance()


def test_vehicles_are_conserved_on_a_congested_network_with_interchanges() -> None:
    network = build_network(40, 3)
    road = network.road
    arriving = next(daily_demand(network, 3, 1, 5))[96] / 15.0 * 1.5  # half as many again as at eight
    arrivals = np.zeros(len(road.sink) - 1)
    arrivals[network.ramp] = arriving
    closed = road.capacity.copy()
    closed[network.sensor[[5, 20]]] *= 0.2
    traffic = Traffic(road, np.zeros(len(road.sink)))
    jam = road.jam()
    for step in range(600):
        if step % 50 == 0:
            capacity = closed if step < 300 else road.capacity
            traffic.drive(
                Conditions(
                    free_share=road.free_share,
                    capacity=capacity,
                    arrivals=arrivals,
                    exit_share=network.exit_share,
                )
            )
        traffic.advance()
        assert traffic.total() == pytest.approx((step + 1) * arrivals.sum(), rel=1e-12)
        assert (traffic.vehicles >= 0.0).all() and (traffic.vehicles <= jam * (1 + 1e-12)).all()
        assert (traffic.queue >= -1e-9).all() and (traffic.exited >= 0.0).all()
        assert (traffic.queue[road.connector_to] <= road.storage * (1 + 1e-12)).all()
    assert traffic.vehicles[road.sink].sum() > 0.0 and traffic.exited.sum() > 0.0
    assert traffic.queue.max() > 1.0, "the world was meant to be congested"


@pytest.mark.parametrize("free_share", [1.0, 0.6, 0.25])
def test_light_traffic_moves_downstream_at_free_speed(free_share: float) -> None:
    pulse = np.zeros(82)
    pulse[5] = 3.0
    traffic = start(straight_road(80, free_share=free_share), pulse)
    run(traffic, 40)
    where = traffic.vehicles[1:-1] @ np.arange(1, 81) / traffic.vehicles[1:-1].sum()
    assert where == pytest.approx(5.0 + 40 * free_share, abs=1e-9)


@pytest.mark.parametrize("wave_share", [1.0, 0.3, 0.15])
def test_waves_in_dense_traffic_run_upstream_at_the_wave_speed(wave_share: float) -> None:
    road = straight_road(120, free_share=0.9, wave_share=wave_share)
    dense = 0.6 * road.jam()[1] + 0.4 * 10.0 * CRITICAL / 0.9
    even, pushed = np.full(122, dense), np.full(122, dense)
    pushed[90] += 0.5
    traffics = start(road, even), start(road, pushed)
    for traffic in traffics:
        run(traffic, 25)
    change = (traffics[1].vehicles - traffics[0].vehicles)[1:-1]
    assert change.sum() == pytest.approx(0.5, abs=1e-9)
    assert change @ np.arange(1, 121) / change.sum() == pytest.approx(90.0 - 25 * wave_share, abs=1e-6)


def test_a_queue_grows_upstream_at_the_shock_speed_of_rankine_and_hugoniot() -> None:
    road = straight_road(100, free_share=0.9, bottleneck=95)
    arrivals = 10.0 * 0.95
    free = CRITICAL * 10.0 / 0.9 - (10.0 - arrivals) / (0.5 * 0.9)  # density on the slower branch
    traffic = start(road, free, arrivals)
    jammed = road.jam()[1] - 8.0 / 0.2
    run(traffic, 150)
    tail = [95 - int((traffic.vehicles[1:95] > (free + jammed) / 2).sum())]
    run(traffic, 400)
    tail.append(95 - int((traffic.vehicles[1:95] > (free + jammed) / 2).sum()))
    assert traffic.vehicles[90] == pytest.approx(jammed, rel=1e-3)
    speed = (8.0 - arrivals) / (jammed - free)
    assert (tail[1] - tail[0]) / 400 == pytest.approx(speed, rel=0.03)


def test_speed_falls_where_density_rises() -> None:
    road = straight_road(60, free_share=0.9, bottleneck=50)
    densities, speeds = [], []
    for arrivals in np.linspace(0.5, 9.8, 12):
        traffic = start(road, 0.0, float(arrivals))
        run(traffic, 1500)
        traffic.read()
        run(traffic, 10)
        moved, seen = traffic.read()
        densities += (seen[5:50] / 10).tolist()
        speeds += (moved[5:50] / seen[5:50]).tolist()
    order = np.argsort(densities)
    speed, density = np.array(speeds)[order], np.array(densities)[order]
    assert (np.diff(speed) <= 1e-6).all()
    assert speed[0] == pytest.approx(0.9) and speed[-1] < 0.4 and density[-1] > 2.0 * density[0]


def test_congestion_stands_upstream_of_a_bottleneck_and_never_downstream() -> None:
    traffic = start(straight_road(60, free_share=0.9, bottleneck=40), 0.0, 9.5)
    run(traffic, 1000)
    critical = 10.0 * CRITICAL / 0.9
    assert (traffic.vehicles[30:40] > 1.3 * critical).all()
    assert (traffic.vehicles[41:61] < critical).all()


def test_a_jammed_merge_shares_the_road_by_priority() -> None:
    road = straight_road(30, free_share=0.9, bottleneck=20)
    traffic = start(road, 0.0)
    traffic.drive(steady(road, {0: 10.0, 18: 5.0}))  # a ramp joins ahead of the bottleneck
    run(traffic, 2000)
    before = traffic.queue[18]
    traffic.read()
    run(traffic, 100)
    from_ramp = (5.0 * 100 - (traffic.queue[18] - before)) / 100
    assert from_ramp == pytest.approx(0.2 * 8.0, rel=1e-6)
    assert traffic.read()[0][18] / 100 == pytest.approx(0.8 * 8.0, rel=1e-6)


def test_a_full_connector_blocks_the_road_it_leaves() -> None:
    """First in first out: who wants the full exit stands in the way of everybody behind."""
    base = straight_road(30, free_share=0.9)
    sink, capacity = base.sink.copy(), base.capacity.copy()
    sink[15], capacity[15] = True, np.inf  # two corridors of 14 and 15 cells
    capacity[20] = 0.5  # the second is all but closed behind its ramp
    road = Road(
        sink=sink,
        capacity=capacity,
        free_share=np.where(sink, 0.0, 0.9),
        wave_share=0.2,
        priority=base.priority,
        ramp_capacity=base.ramp_capacity,
        connector_from=np.array([8]),
        connector_to=np.array([18]),
        storage=np.array([20.0]),
        patience=base.patience,
    )
    traffic = Traffic(road, np.zeros(32))
    traffic.drive(steady(road, {0: 6.0}, {8: 0.25}))
    run(traffic, 1500)
    assert traffic.queue[18] == pytest.approx(20.0, rel=0.05)
    traffic.read()
    run(traffic, 100)
    passed = traffic.read()[0][8] / 100
    assert passed == pytest.approx(0.5 / 0.25, rel=0.05), "the exit's 0.5 a step is a quarter of the flow"
    assert traffic.vehicles[5] > 10.0 * CRITICAL / 0.9


def test_drivers_give_up_when_the_queue_at_a_ramp_is_too_long() -> None:
    base = straight_road(10, free_share=0.9)
    patience = base.patience.copy()
    patience[0] = 30.0
    road = Road(
        sink=base.sink,
        capacity=base.capacity,
        free_share=base.free_share,
        wave_share=base.wave_share,
        priority=base.priority,
        ramp_capacity=base.ramp_capacity,
        connector_from=NONE,
        connector_to=NONE,
        storage=base.storage,
        patience=patience,
    )
    traffic = start(road, 0.0, 15.0)
    for _ in range(20):
        run(traffic, 10)
        traffic.drive(steady(road, {0: 15.0}))
        assert traffic.queue[0] <= 30.0
    assert traffic.total() == pytest.approx(15.0 * 200) and traffic.exited[0] > 0.0

# SPDX-License-Identifier: MIT
"""One trial on machines that are not there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBed, FakeHost, final, load, result

from megabench import instructions, measure
from megabench.errors import CommandError
from megabench.experiment import load_experiment
from megabench.plan import Trial, make_plan


@pytest.fixture
def trial() -> Trial:
    return make_plan([load_experiment("pingpong-contribution")], "smoke").trials[0]


def test_measure__all_metrics(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()
    got = measure.measure(bed, trial, 1, tmp_path)
    metrics = got.with_units()
    assert metrics["throughput"] == {"value": 2000.0, "unit": "txn/s"}
    assert metrics["latency_p99"] == {"value": 900.0, "unit": "us"}
    assert metrics["share_per_core"]["value"] == [0.125] * 8
    assert metrics["imbalance"]["value"] == 1
    assert metrics["syscalls"]["value"] == 7
    assert "foreign_accepts" not in metrics
    assert got.errors == 0
    assert set(metrics) <= set(measure.UNITS)


def test_measure__stops_the_server_and_waits_for_the_load(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()
    measure.measure(bed, trial, 1, tmp_path)
    (server,) = bed.server.started
    (load,) = bed.clients[0].started
    assert server.signals == ["TERM"]
    assert server.waited
    assert load.waited


def test_measure__counts_retransmissions_of_both_sides(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()

    def serve(argv: Any) -> list[Any]:
        bed.server.retransmits += 3
        bed.clients[0].retransmits += 90
        return [{"event": "ready"}, final()]

    bed.server.program = serve
    got = measure.measure(bed, trial, 1, tmp_path)
    assert got.metrics["retransmits_server"] == 3
    assert got.metrics["retransmits_client"] == 90
    assert got.notes == ["93 segments retransmitted in 4000 transactions"]


@pytest.mark.parametrize("broken", [KeyboardInterrupt, "silence"])
def test_measure__broken_off_leaves_nothing_running(
    broken: Any, trial: Trial, tmp_path: Path
) -> None:
    bed = FakeBed()
    bed.clients[0].program = lambda argv: [broken]
    with pytest.raises((KeyboardInterrupt, CommandError)):
        measure.measure(bed, trial, 1, tmp_path)
    assert bed.server.started[0].killed
    assert bed.clients[0].started[0].killed


def test_measure__second_client_that_does_not_start(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()

    def absent(argv: Any) -> Any:
        raise CommandError(argv, None, problem="cannot be started")

    bed.clients.append(FakeHost("client2", absent))
    with pytest.raises(CommandError, match="cannot be started"):
        measure.measure(bed, trial, 1, tmp_path)
    assert bed.clients[0].started[0].killed
    assert bed.server.started[0].killed


def test_measure__a_window_that_was_not_measured(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()
    bed.clients[0].program = lambda argv: [result(complete=False, failure="deadline passed")]
    with pytest.raises(CommandError, match="deadline passed"):
        measure.measure(bed, trial, 1, tmp_path)


def test_measure__several_clients_add_up(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()
    other = FakeHost("client2", lambda argv: load(argv, histogram=[[90.0, 5000]]))
    bed.clients.append(other)
    got = measure.measure(bed, trial, 1, tmp_path)
    assert got.metrics["throughput"] == 4000
    assert got.histogram == [[90.0, 8000], [110.0, 1000]]
    assert got.metrics["latency_p50"] == 90
    argvs = [host.started[0].argv for host in bed.clients]
    counts = [argv[argv.index("--connections") + 1] for argv in argvs]
    assert counts == ["128", "128"]
    # They are told to begin when both are ready.
    assert [host.started[0].told for host in bed.clients] == [["go"], ["go"]]


@pytest.mark.parametrize(("alone", "missed"), [(1900.0, False), (1200.0, True)])
def test_measure__one_client_fewer(
    alone: float, missed: bool, trial: Trial, tmp_path: Path
) -> None:
    bed = FakeBed()
    serve = [[{"event": "ready"}, final()] for _ in range(2)]
    bed.server.program = lambda argv: serve.pop(0)
    for name in ("client", "client2"):
        host = FakeHost(
            name, lambda argv: load(argv, throughput=1000.0 if "--wait" in argv else alone)
        )
        bed.clients = [*bed.clients[: name == "client2"], host]
    got = measure.measure(bed, replace(trial, twice=True), 1, tmp_path)
    assert got.metrics["throughput"] == 2000
    assert got.metrics["throughput_fewer_clients"] == alone
    assert any("clients were the bottleneck" in note for note in got.notes) == missed
    assert len(bed.clients[0].started) == 2
    assert len(bed.clients[1].started) == 1


def test_measure__its_rate_is_watched(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()
    second = 1_000_000_000
    bed.clients[0].program = lambda argv: [
        {"event": "measure_begin", "time_ns": 5 * second, "connections_ready": 1},
        {"event": "progress", "time_ns": 6 * second, "transactions": 1000},
        {"event": "progress", "time_ns": 8 * second, "transactions": 5000},
        result(),
    ]
    seen: list[float] = []
    measure.measure(bed, trial, 1, tmp_path, seen.append)
    assert seen == [1000.0, 2000.0]
    assert bed.clients[0].started[0].argv[-2:] == ["--progress", "1"]


def test_measure__one_client_is_not_told_to_wait(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()
    measure.measure(bed, trial, 1, tmp_path)
    assert "--wait" not in bed.clients[0].started[0].argv
    assert bed.clients[0].started[0].told == []


def test_measure__what_idle_connections_weigh(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "LOOK_S", 0.0)
    bed = FakeBed()
    bed.clients.append(FakeHost("client2", load))
    # Before: at rest at once. With them: still growing at the first look.
    bed.server.slab_kib = [1000, 1000, 20000, 33250, 33250]
    got = measure.measure(bed, replace(trial, cell={**trial.cell, "idle": 8001}), 1, tmp_path)
    assert got.metrics["memory_per_idle"] == 32250 * 1024 / 8001
    argvs = [host.started[0].argv for host in bed.clients]
    assert [argv[argv.index("--idle") + 1] for argv in argvs] == ["4001", "4000"]
    assert [host.started[0].told for host in bed.clients] == [["go"], ["go"]]


def test_measure__few_idle_connections_are_not_weighed(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()
    got = measure.measure(bed, replace(trial, cell={**trial.cell, "idle": 50}), 1, tmp_path)
    assert not {"memory_per_idle", "server_cpu"} & set(got.metrics)
    # Yet all of them are there before the load begins.
    assert bed.clients[0].started[0].told == ["go"]


def test_measure__errors_make_it_no_point(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()
    errors = {"connect": 1, "reset": 2, "timeout": 0, "short": 0, "content": 4, "other": 0}
    bed.clients[0].program = lambda argv: [result(errors=errors)]
    got = measure.measure(bed, trial, 1, tmp_path)
    assert got.errors == 7
    assert got.metrics["resets"] == 2


def test_measure__instructions_of_the_window(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = FakeBed()
    bed.counter_file = tmp_path / "shared"

    def load(argv: Any) -> list[Any]:
        prefix = argv[argv.index("--snapshot") + 1].partition(":")[2]
        for edge in ("begin", "end"):
            Path(f"{prefix}.{edge}").write_text(edge)
        return [result()]

    bed.clients[0].program = load
    monkeypatch.setattr(instructions, "read", lambda path: path.read_text())
    monkeypatch.setattr(instructions, "diff", lambda begin, end: (begin, end))

    def summary(window: Any, transactions: int) -> dict[str, Any]:
        assert window == ("begin", "end")
        assert transactions == 4000
        return {"instructions": 60e3, "instructions_spin": 5.0, "by_function": {"tcp_v4_rcv": 9.0}}

    monkeypatch.setattr(instructions, "summary", summary)
    got = measure.measure(bed, trial, 1, tmp_path / "logs")
    assert got.metrics["instructions"] == 60e3
    assert got.metrics["instructions_spin"] == 5
    assert (tmp_path / "logs" / "functions.json").read_text() == '{\n "tcp_v4_rcv": 9.0\n}\n'
    assert not (tmp_path / "logs" / "counters.begin").exists()


def test_measure__no_instructions_of_an_idling_machine(trial: Trial, tmp_path: Path) -> None:
    bed = FakeBed()
    bed.counter_file = tmp_path / "shared"
    bed.clients[0].program = lambda argv: [result(throughput=50.0)]
    got = measure.measure(bed, trial, 1, tmp_path)
    assert "instructions" not in got.metrics
    assert got.notes == ["counts left out: below 100 txn/s"]


def test_load_notes__what_a_reader_should_know() -> None:
    said = measure.load_notes(
        [
            result(bottleneck="client", bottleneck_why="no idle time"),
            result(errors_outside={"reset": 3}, histogram_out_of_range=2),
        ]
    )
    assert said == [
        "the client was the bottleneck: no idle time",
        "3 errors outside the measured window",
        "2 latencies beyond the histogram",
    ]


def test_parse_retransmits__of_no_tcp() -> None:
    assert measure.parse_retransmits("Udp: InDatagrams\nUdp: 1\n") == 0


def test_quantile__of_nothing_is_not_a_number() -> None:
    assert measure.quantile([], 0.5) != measure.quantile([], 0.5)


def test_server_metrics__foreign_accepts() -> None:
    counters = final(2, 10)
    for thread, count in zip(counters["threads"], (0, 3), strict=True):
        thread["foreign_accepts"] = count
    assert measure.server_metrics(counters)["foreign_accepts"] == 3
    assert measure.server_metrics({"threads": []}) == {}


def test_trial_commands__before_the_testbed_is_up(trial: Trial) -> None:
    bed = FakeBed()
    bed.clients = []
    server, loads = measure.trial_commands(bed, trial, 1, Path("logs"))
    assert server[0] == "/run/megabench/bin/pingpong-server"
    assert len(loads) == 1


def test_parse_busy__all_but_idle() -> None:
    stat = "cpu  100 10 200 5000 50 3 7 0 0 0\ncpu0 100 10 200 5000 50 3 7 0 0 0\n"
    assert measure.parse_busy(stat) == 3.2
    assert measure.parse_busy("") == 0


def test_parse_busy__of_some_cpus() -> None:
    idle = "0 0 300 0 0 0 0"
    stat = f"cpu  60 {idle}\ncpu0 10 {idle}\ncpu1 20 {idle}\ncpu10 30 {idle}\nintr 5\n"
    assert measure.parse_busy(stat, (0, 10)) == 0.4


def test_all_served__what_was_set_before_too() -> None:
    assert measure.all_served({"transactions": 5, "transactions_outside": 2, "prepared": 9}) == 16


def test_load_notes__a_rate_that_was_too_high() -> None:
    assert measure.load_notes([result(behind_s=0.02)]) == []
    assert "0.50 s behind" in measure.load_notes([result(behind_s=0.5)])[0]


def test_trial_commands__an_open_loop_is_shared_by_the_clients() -> None:
    trial = make_plan([load_experiment("memcached-latency")], "smoke").trials[0]
    bed = FakeBed()
    bed.clients.append(FakeHost("client2"))
    _, loads = measure.trial_commands(bed, replace(trial, rate=500.0), 1, Path("logs"))
    assert [load[load.index("--rate") + 1] for load in loads] == ["250", "250"]
    _, loads = measure.trial_commands(bed, trial, 1, Path("logs"))
    assert "--rate" not in loads[0]


def test_trial_commands__a_trace_ends_by_itself(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MEGABENCH_BUILD", str(tmp_path))
    trial = make_plan([load_experiment("nginx-throughput")], "smoke").trials[0]
    server, (load,) = measure.trial_commands(FakeBed(), trial, 1, Path("logs"))
    assert server[0] == "/run/megabench/bin/nginx-stock"
    assert "--duration" not in load
    assert load[load.index("--passes") + 1] == "1"
    file = Path(load[load.index("--trace") + 1])
    assert file.parent == tmp_path / "traces"
    assert "synthetic" in file.read_text()


def test_stranded__those_that_wait_far_longer_than_most() -> None:
    # 900 of 1 ms, 4 of 1 s, in 2 s: on average 2 connections are in one of the long waits.
    histogram = [[1000.0, 900], [1_000_000.0, 4]]
    assert measure.stranded(histogram, 1000.0, 2.0) == 2
    assert measure.stranded([[1000.0, 900], [4000.0, 10]], 1000.0, 2.0) == 0

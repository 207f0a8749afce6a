# SPDX-License-Identifier: MIT
"""The command line on machines reached over SSH: namespaces with sshd of their own (lab.py).

hub: megabench ── SSH ──> server ── load <── client1, client2
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lab
import pytest

from megabench import paths
from megabench.host import wait_until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(bool(lab.available()), reason=lab.available() or "-"),
]

CLIENTS = {"client1": 11, "client2": 12}
CORES = lab.CORES

EXPERIMENT = """\
id = "small"
title = "A small experiment"
claim = "none"
mark = "R"
app = "pingpong"
metric = "throughput"
unit = "txn/s"
x = "transactions_per_connection"
series = "system"
baseline = "epoll"
[grid]
transactions_per_connection = [8]
system = ["epoll", "reuseport"]
[fixed]
cores = 1024
connections = 16
size = 64
[sampling]
repeats = 2
warmup_s = 0.3
measure_s = 2.0
order = "interleaved"
loop = "closed"
[scale.smoke]
[scale.quick]
[scale.full]
"""


# What every machine's settings were before anything was done to it.
as_found: dict[str, list[str]] = {}
# What a client's card is asked for in vain.
LACKING_RSS = ("[tune.client.sysctl]", '[tune.client]\nrss = "equal"\n[tune.client.sysctl]')
QUEUES = ("[tune.client.sysctl]", '[tune.client]\nqueues = "cores"\n[tune.client.sysctl]')
MANY = ("threads = 1\n", "threads = 1\ncores = 999\n")
# Everything that can be tuned.
TUNING = """\
[tune.server]
queues = "cores"
irq = "one-to-one"
rss = "equal"
rps = "all"
xps = "one-to-one"
governor = "performance"
turbo = "off"
smt = "off"
stop_services = "irqbalance"
[tune.server.coalesce]
"adaptive-rx" = "off"
"rx-usecs" = "10"
[tune.server.offloads]
"generic-receive-offload" = "on"
[tune.server.sysctl]
"net.core.somaxconn" = "65535"
[tune.client.sysctl]
"net.ipv4.ip_local_port_range" = "1024 65535"
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Lab]:
    there = lab.Lab(tmp_path_factory.mktemp("lab"))
    try:
        there.add_host("server", 2, rss=True)
        for name, number in CLIENTS.items():
            there.add_host(name, number)
        as_found.update({name: there.settings(name) for name in there.holders})
        yield there
    finally:
        there.close()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one small experiment, and the programs of this one."""
    monkeypatch.setenv("MEGABENCH_BUILD", str(paths.build()))
    monkeypatch.setenv("MEGABENCH_ROOT", str(tmp_path))
    (tmp_path / "harness/experiments").mkdir(parents=True)
    shutil.copy(paths.HARNESS / "systems.toml", tmp_path / "harness")
    (tmp_path / "harness/experiments/small.toml").write_text(EXPERIMENT)
    return tmp_path


def inventory(
    machines: lab.Lab, root: Path, *changes: tuple[str, str], kernel: str = "any"
) -> Path:
    """A definition of the lab, with pieces of text replaced."""
    key = f'key = "{machines.key}"\nknown_hosts = "{machines.known_hosts}"\n'
    text = (
        '[testbed]\nname = "lab"\nkind = "ssh"\ntitle = "namespaces"\nvirtual = true\n'
        f'[deploy]\nkernel = "{kernel}"\nboot_timeout_s = 600\n'
        f'[server]\nhost = "{lab.NET}.2"\nuser = "root"\n{key}cores = {CORES}\n'
        f'address = "{lab.NET}.2"\naddress6 = "{lab.NET6}:2"\ninterface = "eth1"\n'
        f"{TUNING}"
    )
    for number in CLIENTS.values():
        text += f'[[client]]\nhost = "{lab.NET}.{number}"\n{key}interface = "eth1"\nthreads = 1\n'
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = root / "lab.toml"
    path.write_text(text)
    return path


# Server and one client reached as a user who becomes root; the other client by root itself.
BY_SUDO = (
    ('user = "root"', 'user = "driver"\nbecome_root = true'),
    (f'host = "{lab.NET}.11"', f'host = "{lab.NET}.11"\nuser = "driver"\nbecome_root = true'),
)


def untouched(machines: lab.Lab) -> bool:
    """Whether no machine of the lab holds anything of ours."""
    left = [
        machines.inside(name, "ls -d /tmp/megabench /run/megabench/restore.json 2>/dev/null")
        for name in machines.holders
    ]
    return not any(left) and restored(machines)


def restored(machines: lab.Lab) -> bool:
    """Whether every setting of every machine is what it was found to be."""
    return all(machines.settings(name) == as_found[name] for name in machines.holders)


# What TUNING sets on two CPUs, and the knobs that must hold it.
SET = {
    "/proc/sys/net/core/somaxconn": "65535",
    "/sys/class/net/eth1/queues/rx-0/rps_cpus": f"{2**CORES - 1:x}",
    "/sys/class/net/eth1/queues/tx-0/xps_cpus": "1",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance",
    "/sys/devices/system/cpu/intel_pstate/no_turbo": "1",
    "/sys/devices/system/cpu/smt/control": "off",
    "ethtool -C eth1 adaptive-rx": "off",
    "ethtool -C eth1 rx-usecs": "10",
    "ethtool -K eth1 generic-receive-offload": "on",
    "ethtool -L eth1 combined": f"{CORES}",
    "ethtool -X eth1": f"equal {CORES}",
    "interrupt of eth1's queue 0: affinity": "1",
    "systemctl irqbalance": "inactive",
}


def assert_tuned(recorded: dict[str, str]) -> None:
    """What a run has read back of the server is what was asked for."""
    assert {name: recorded.get(name) for name in SET} == SET


# A word of each knob's line in what a machine says of itself.
OF_SERVER = (
    "somaxconn rps_cpus xps_cpus scaling_governor no_turbo smt/control Adaptive rx-usecs "
    "generic-receive-offload /130/smp_affinity inactive"
)


def assert_all_changed(machines: lab.Lab) -> None:
    """No knob is what it was found to be: or a test that it was put back would prove nothing."""
    now = set(machines.settings("server")) - set(as_found["server"])
    words = [*OF_SERVER.split(), f"tx-{CORES - 1}"]
    assert [word for word in words if not any(word in line for line in now)] == []
    now = set(machines.settings("client1")) - set(as_found["client1"])
    assert len(now) == 1


def points(root: Path) -> list[dict]:  # type: ignore[type-arg]
    found = []
    for path in root.glob("results/lab/raw/small/*/points.jsonl"):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    return found


def test_check__fine_change_and_note(machines: lab.Lab, root: Path) -> None:
    done = machines.megabench("check", "--json", "--testbed", str(inventory(machines, root)))
    found = {one["what"]: one for one in json.loads(done.stdout)}
    assert done.returncode == 0, found
    assert found["server: root"]["level"] == "fine"
    assert found["server: tuning"]["level"] == "will change"
    assert found["client2: subnet"]["level"] == "fine"
    assert "10000 Mbit/s" in found["client1: interface"]["said"]
    assert untouched(machines)


def example(machines: lab.Lab, root: Path) -> Path:
    """cluster-example.toml, filled in as its comments say; the kernel is left alone."""
    text = (paths.HARNESS / "testbeds/cluster-example.toml").read_text()
    key = f'key = "{machines.key}"'
    known = f'known_hosts = "{machines.known_hosts}"'
    for old, new in (
        ('name = "cluster-example"', 'name = "mylab"'),
        ('host = "server.example.net"', f'host = "{lab.NET}.2"'),
        ('# key = "~/.ssh/id_ed25519"', key),
        ('# known_hosts = "…"', known),
        ("cores = 8 ", f"cores = {CORES} "),
        ('address = "198.18.0.2"', f'address = "{lab.NET}.2"'),
        ('host = "client1.example.net"', f'host = "{lab.NET}.11"\n{key}\n{known}'),
        ("threads = 8", "threads = 1"),
        ('kernel = "deploy"', 'kernel = "any"'),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = root / "mylab.toml"
    path.write_text(text)
    return path


def test_up__the_example_filled_in(
    machines: lab.Lab, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(example(machines, root))
    # The other servers would only take their time to be copied.
    (root / "build/bin").mkdir(parents=True)
    for program in ("pingpong-server", "megabench-load", "megapipe-info"):
        (root / "build/bin" / program).symlink_to(paths.build() / "bin" / program)
    monkeypatch.setenv("MEGABENCH_BUILD", str(root / "build"))
    done = machines.megabench("check", "--json", "--testbed", path)
    levels = {one["level"] for one in json.loads(done.stdout) if "server: " in one["what"]}
    assert done.returncode == 0, done.stdout
    assert "will change" in levels
    assert machines.megabench("up", "--testbed", path).returncode == 0
    assert not restored(machines)
    now = machines.settings("server")
    assert [line for line in now if "rx-usecs" in line or line == "inactive"] == [
        "rx-usecs:\t10",
        "inactive",
    ]
    assert machines.megabench("down", "--testbed", path).returncode == 0
    assert untouched(machines)


@pytest.fixture
def locked_key(machines: lab.Lab, tmp_path: Path) -> Iterator[Path]:
    """A key with a passphrase, let in by the server."""
    key = tmp_path / "locked"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)]
    subprocess.run(argv, check=True, timeout=60)
    keys = "/run/megabench/ssh/authorized_keys"
    public = key.with_suffix(".pub").read_text().strip()
    machines.inside("server", f"cp {keys} {keys}.kept; echo '{public}' >>{keys}")
    yield key
    machines.inside("server", f"mv {keys}.kept {keys}")


@pytest.fixture
def agent(locked_key: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An agent that holds it; what finds the agent."""
    found = {"SSH_AUTH_SOCK": str(tmp_path / "agent")}
    held = subprocess.Popen(["ssh-agent", "-D", "-a", found["SSH_AUTH_SOCK"]])
    ask = tmp_path / "ask"
    ask.write_text("#!/bin/sh\necho secret\n")
    ask.chmod(0o755)
    assert wait_until(Path(found["SSH_AUTH_SOCK"]).exists, timeout=10)
    asking = {**os.environ, **found, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(["ssh-add", "-q", str(locked_key)], check=True, env=asking, timeout=60)
    yield found
    held.terminate()
    held.wait(60)


def test_check__a_key_with_a_passphrase_is_the_agents(
    machines: lab.Lab, root: Path, locked_key: Path, agent: dict[str, str]
) -> None:
    path = inventory(machines, root, (str(machines.key), str(locked_key)))
    done = machines.megabench("check", "--testbed", str(path), **agent)
    assert done.returncode == 0, done.stdout
    done = machines.megabench("check", "--testbed", str(path), SSH_AUTH_SOCK="")
    assert done.returncode == 1
    assert "the key has a passphrase: ssh-add" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([('host = "198.18.10.12"', 'host = "198.18.10.77"')], "client2: SSH"),
        (
            [('user = "root"', 'user = "guest"\nbecome_root = true')],
            "server: root: sudo without a password is not allowed to guest",
        ),
        ([(f"cores = {CORES}", "cores = 999")], "server: cores"),
    ],
)
def test_run__what_is_wrong_is_said_before_anything_is_changed(
    machines: lab.Lab, root: Path, changes: list[tuple[str, str]], said: str
) -> None:
    path = inventory(machines, root, *changes)
    done = machines.megabench("run", "small", "--testbed", str(path))
    assert done.returncode == 1
    assert "not ready, and nothing was changed" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert untouched(machines)


# In the hub, for all of the following: what `check` and `run` ask.
INSPECTOR = """\
import json, sys
from megabench.testbed import Testbed
for line in sys.stdin:
    found = Testbed.load(line.strip()).inspect()
    print(json.dumps([f"{f.level}: {f.host}: {f.what}: {f.said}" for f in found]), flush=True)
"""


@pytest.fixture(scope="module")
def inspector(machines: lab.Lab) -> Iterator["subprocess.Popen[str]"]:
    argv = machines.hub.argv([sys.executable, "-c", INSPECTOR])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asked:
        yield asked
        assert asked.stdin is not None
        asked.stdin.close()


def stand_in(command: str, text: str) -> tuple[str, str]:
    """What makes a host's command another one, and what undoes it."""
    path = f"/usr/local/sbin/{command}"
    return f"echo '{text}' | sed '1i #!/bin/sh' >{path}; chmod 755 {path}", f"rm {path}"


def system(name: str, version: str) -> tuple[str, str]:
    """The same for a host's distribution."""
    text = f"ID={name}\nVERSION_ID={version}\nPRETTY_NAME={name}"
    return (
        f"printf '{text}' >/run/os; mount --bind /run/os /etc/os-release",
        "umount /etc/os-release",
    )


def mounted(options: str, where: str) -> tuple[str, str]:
    """The same for a folder."""
    return f"mount -t tmpfs -o {options} none {where}", f"umount {where}"


def told(card: str, text: str) -> tuple[str, str]:
    """The same for what the card under test says of itself."""
    real, here = f"/sys/devices/virtual/net/eth1/{card}", f"/sys/class/net/eth1/{card}"
    return f"rm {here}; echo {text} >{here}", f"rm {here}; ln -s {real} {here}"


CLIENT = 'host = "198.18.10.12"'
DEPLOY = "deploy"


@dataclass(frozen=True)
class Wrong:
    """Something got wrong: in the inventory, or on a host; and what is to be said of it."""

    said: str
    changes: tuple[tuple[str, str], ...] = ()
    kernel: str = "any"
    host: str = "server"
    done: tuple[str, str] = ("true", "true")
    level: str = "must mend"


EVERY = (
    Wrong("server: SSH: server: no SSH to root@nowhere.invalid",
          (('host = "198.18.10.2"', 'host = "nowhere.invalid"'),)),
    Wrong("this machine does not know the name",
          (('host = "198.18.10.2"', 'host = "nowhere.invalid"'),)),
    Wrong("client2: SSH: client2: no SSH to root@198.18.10.12 port 2222",
          ((CLIENT, f"{CLIENT}\nport = 2222"),)),
    Wrong("not found in known_hosts", (("known_hosts = ", 'known_hosts = "/dev/null" # '),)),
    Wrong("are files of this machine", (('key = "', 'key = "/nowhere'),)),
    Wrong("Authentication failed", (('user = "root"', 'user = "stranger"'),)),
    Wrong("server: root: commands run as an ordinary user",
          (('user = "root"', 'user = "guest"'),)),
    Wrong("client2: root: sudo without a password is not allowed to guest",
          ((CLIENT, f'{CLIENT}\nuser = "guest"\nbecome_root = true'),)),
    Wrong("no eth7; there are: eth1", (('interface = "eth1"', 'interface = "eth7"'),)),
    Wrong("eth1 has not 198.18.10.3",
          (('address = "198.18.10.2"', 'address = "198.18.10.3"'),)),
    Wrong("the way to the server is not by lo",
          (('interface = "eth1"\nthreads', 'interface = "lo"\nthreads'),)),
    Wrong("client1: RSS: eth1 does not spread flows by itself (no RSS)", (LACKING_RSS,)),
    Wrong(f"client1: queues: eth1 has at most {CORES} queues for 999 cores", (QUEUES, MANY)),
    Wrong("the link is down", done=told("operstate", "down")),
    Wrong("(20000 Mbit/s together) are slower than the server's (20001)",
          done=told("speed", "20001")),
    Wrong("client1: C library: glibc 2.1 is older than", host="client1",
          done=stand_in("getconf", "echo glibc 2.1")),
    Wrong("s away from this machine's", done=stand_in("date", "echo 1000.5")),
    Wrong("client2: disk: /tmp has 1 MB free, 100 MB are needed", host="client2",
          done=mounted("size=1m", "/tmp")),
    Wrong("/tmp is mounted noexec", done=mounted("noexec", "/tmp")),
    Wrong("/tmp is mounted ro", done=mounted("ro", "/tmp")),
    Wrong("all: distributions: mixed: server debian", host="client2",
          done=system("other", "1"), level="note"),
    Wrong("a kernel is installed on Debian 12/13", kernel=DEPLOY, done=system("other", "1")),
    Wrong("only GRUB is booted once from here", kernel=DEPLOY),
    Wrong("secure boot: on", kernel=DEPLOY, done=stand_in("mokutil", "echo SecureBoot enabled")),
    *([] if Path("/dev/megapipe").exists() else [Wrong("has no /dev/megapipe", kernel="own")]),
)  # fmt: skip


@pytest.mark.parametrize("wrong", EVERY, ids=[one.said for one in EVERY])
def test_inspect__what_is_wrong(
    machines: lab.Lab, root: Path, inspector: "subprocess.Popen[str]", wrong: Wrong
) -> None:
    assert inspector.stdin is not None
    assert inspector.stdout is not None
    path = inventory(machines, root, *wrong.changes, kernel=wrong.kernel)
    machines.inside(wrong.host, wrong.done[0])
    try:
        inspector.stdin.write(f"{path}\n")
        inspector.stdin.flush()
        found = json.loads(inspector.stdout.readline())
    finally:
        machines.inside(wrong.host, wrong.done[1])
    assert any(one.startswith(wrong.level) and wrong.said in one for one in found), found


def test_run__a_full_disk_is_said_before_anything_is_changed(machines: lab.Lab, root: Path) -> None:
    machines.inside("client1", "mount -t tmpfs -o size=1m none /tmp")
    try:
        path = inventory(machines, root)
        done = machines.megabench("run", "small", "--testbed", str(path))
        assert done.returncode == 1
        assert "client1: disk: /tmp has 1 MB free" in done.stderr
        assert untouched(machines)
    finally:
        machines.inside("client1", "umount /tmp")


def test_run__two_clients_are_one_load(machines: lab.Lab, root: Path) -> None:
    """By sudo on two of the machines, by root on the third."""
    path = inventory(machines, root, *BY_SUDO)
    done = machines.megabench("run", "small", "--testbed", str(path), "--json")
    assert done.returncode == 0, done.stderr
    measured = points(root)
    assert len(measured) == 4
    (meta,) = root.glob("results/lab/raw/small/*/meta.json")
    facts = json.loads(meta.read_text())["testbed"]["facts"]
    assert set(facts["packet_filters"]) == set(facts["tuning"]) == {"server", *CLIENTS}
    assert_tuned(facts["tuning"]["server"])
    for point in measured:
        counts = [one["transactions"] for one in point["load"]]
        assert len(counts) == 2
        assert min(counts) > 0
        assert sum(count for _, count in point["histogram_us"]) == sum(counts)
        rate = point["metrics"]["throughput"]["value"]
        assert rate == pytest.approx(sum(one["throughput"] for one in point["load"]))
        # Once for each cell, with one client fewer.
        assert ("throughput_fewer_clients" in point["metrics"]) == (point["repeat"] == 1)
    # Settings are put back at once, programs stay for the next run until the testbed goes down.
    assert restored(machines)
    assert machines.megabench("down", "--testbed", str(path)).returncode == 0
    assert untouched(machines)


LIBEVENT = "libevent-2.1.so.7"
# A host that lacks a library: its file is no library there, and the linker's list is without it.
LACK = """\
file=$(readlink -f "$(ldconfig -p | awk -v name={name} '$1 == name {{ print $NF }}')")
: >/run/nothing
mount --bind /run/nothing "$file"
ldconfig -X -C /run/ld.so.cache 2>/dev/null
mount --bind /run/ld.so.cache /etc/ld.so.cache
ldconfig -p | grep -c {name}
echo "$file"
"""


@pytest.fixture
def without_libevent(machines: lab.Lab) -> Iterator[None]:
    """The server, and nobody else, has no libevent."""
    count, file = machines.inside("server", LACK.format(name=LIBEVENT)).split()
    yield
    machines.inside("server", f"umount /etc/ld.so.cache {file}")
    assert count == "0"


@pytest.fixture
def whole(root: Path) -> Path:
    """A checkout with all experiments."""
    here = paths.HARNESS
    for path in here.glob("*.toml"):
        shutil.copy(path, root / "harness")
    for path in (here / "experiments").glob("*.toml"):
        shutil.copy(path, root / "harness/experiments")
    (root / "results").mkdir()
    (root / "results/paper").symlink_to(here.parent / "results/paper")
    (root / "versions.toml").symlink_to(here.parent / "versions.toml")
    (root / "README.md").write_text("<!-- results -->\n<!-- /results -->\n")
    return root


def test_run__memcached_and_nginx_on_two_clients_to_the_report(
    machines: lab.Lab, whole: Path, without_libevent: None
) -> None:
    path = inventory(machines, whole)
    names = ["memcached-throughput", "nginx-throughput"]
    options = ["--scale", "smoke", "--only", "system=stock", "--report"]
    done = machines.megabench("run", *names, *options, "--testbed", str(path), timeout=500)
    assert done.returncode == 0, done.stderr
    for name in names:
        (raw,) = whole.glob(f"results/lab/raw/{name}/*/points.jsonl")
        (point,) = [json.loads(line) for line in raw.read_text().splitlines()]
        assert point["status"] == "ok", point
        assert [one["transactions"] > 0 for one in point["load"]] == [True, True]
        assert point["metrics"]["throughput_fewer_clients"]["value"] > 0
    # A trace goes to the clients, documents to the server, and with memcached its library.
    for client in CLIENTS:
        assert ".trace" in machines.inside(client, "ls /tmp/megabench/traces")
    assert ".complete" in machines.inside("server", "ls /tmp/megabench/nginx/documents")
    assert LIBEVENT in machines.inside("server", "ls /tmp/megabench/bin/lib")
    assert machines.inside("client1", "ls /tmp/megabench/bin") == "megabench-load\n"
    page = (whole / "results/lab/report.html").read_text()
    assert "namespaces" in page
    assert "memcached: throughput" in page
    assert "nginx: requests per second on synthetic traces" in page
    assert "Measured on:" in (whole / "README.md").read_text()
    assert machines.megabench("down", "--testbed", str(path)).returncode == 0
    assert untouched(machines)


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[str]"]]:
    """What a test has started, ended if the test has not."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait(60)


def running(
    machines: lab.Lab, root: Path, path: Path, started: list["subprocess.Popen[str]"]
) -> "subprocess.Popen[str]":
    """A run under way whose first trial is on disk and whose second has begun."""
    process = subprocess.Popen(
        machines.command("run", "small", "--testbed", str(path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    done = len(points(root))
    assert wait_until(lambda: len(points(root)) > done or process.poll() is not None, timeout=120)
    assert process.poll() is None, process.communicate()[1]
    # Not the shell that asks.
    begun = "pgrep -f '[m]egabench-load'"
    assert wait_until(lambda: bool(machines.inside("client1", begun)), timeout=60)
    return process


def test_run__a_dropped_connection_costs_one_trial(
    machines: lab.Lab, root: Path, started: list["subprocess.Popen[str]"]
) -> None:
    path = inventory(machines, root)
    process = running(machines, root, path, started)
    # Every session's process, not the one that listens.
    machines.inside("server", "pkill -KILL -f '^sshd: root'")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 1, said
    assert "Traceback" not in said
    states = [point["status"] for point in points(root)]
    assert sorted(states) == ["failed", "ok", "ok", "ok"], said
    failed = next(point for point in points(root) if point["status"] == "failed")
    assert "on server" in failed["reason"]
    assert next(root.glob(f"results/lab/raw/small/*/{failed['log']}/server.log")).exists()
    assert "pingpong-server" not in machines.inside("server", "ps ax")
    # The same command measures the one that is missing.
    again = machines.megabench("run", "small", "--testbed", str(path))
    assert again.returncode == 0, again.stderr
    assert "3 of 4 trials are on disk already" in again.stderr
    machines.megabench("down", "--testbed", str(path))


def test_run__a_server_that_hangs_costs_one_trial(
    machines: lab.Lab, root: Path, started: list["subprocess.Popen[str]"]
) -> None:
    path = inventory(machines, root, *BY_SUDO)
    process = running(machines, root, path, started)
    machines.inside("server", "pkill -STOP -f '[p]ingpong-server'")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 1, said
    states = [point["status"] for point in points(root)]
    assert states.count("ok") == 3, said
    assert "Traceback" not in said
    assert "pingpong-server" not in machines.inside("server", "ps ax")
    machines.megabench("down", "--testbed", str(path))


def test_run__a_client_that_dies_ends_the_run_and_loses_nothing(
    machines: lab.Lab, root: Path, started: list["subprocess.Popen[str]"]
) -> None:
    path = inventory(machines, root)
    process = running(machines, root, path, started)
    machines.kill("client2")
    left = ["server", "client1"]
    said = process.communicate(timeout=400)[1]
    assert process.returncode == 1, said
    assert "client2 does not answer" in said
    assert "Traceback" not in said
    assert "ok" in [point["status"] for point in points(root)]
    # The others are as they were, although one could not be asked.
    assert [machines.settings(name) for name in left] == [as_found[name] for name in left]
    machines.add_host("client2", 12)
    again = machines.megabench("run", "small", "--testbed", str(path))
    assert again.returncode == 0, again.stderr
    assert sum(point["status"] == "ok" for point in points(root)) == 4
    machines.megabench("down", "--testbed", str(path))
    assert untouched(machines)


def test_run__interrupted_puts_everything_back(
    machines: lab.Lab, root: Path, started: list["subprocess.Popen[str]"]
) -> None:
    path = inventory(machines, root)
    process = running(machines, root, path, started)
    assert not restored(machines)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "interrupted" in said
    assert restored(machines)
    assert "pingpong-server" not in machines.inside("server", "ps ax")


def test_run__killed_is_put_back_by_restore(
    machines: lab.Lab, root: Path, started: list["subprocess.Popen[str]"]
) -> None:
    path = inventory(machines, root)
    process = running(machines, root, path, started)
    process.kill()
    process.communicate(timeout=60)
    assert_all_changed(machines)
    done = machines.megabench("restore", "--testbed", str(path))
    assert done.returncode == 0, done.stderr
    assert restored(machines)
    machines.megabench("down", "--testbed", str(path))
    assert untouched(machines)

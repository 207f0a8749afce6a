#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The kernel's own networking selftests, on the patched and on the untouched kernel.

The programs are compiled once, from the untouched tree, and run in a virtual
machine on both kernels, each in a network namespace of its own. Compared is,
test by test, the exit status and what each case said (the lines of the test
anything protocol). A test that differs is run again on both, until each case that
differs has varied on the untouched kernel too, or there is no patience left. The
last column of the table is the verdict; any "differs" is a failure. On the
untouched kernel our own selftests must skip,
for want of /dev/megapipe; so they must on the patched one with MEGAPIPE=n, whose
objects are the untouched kernel's (make check-builds).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

KERNELS = ("patched", "untouched")
SKIP = 4
TIMED_OUT = 124
NOT_RUN = -1
DEADLINE_S = 600
BOOT_S = 600
# Rounds more for the tests that differ, and how often each is run in one.
AGAIN = 4
REPEATS = 3
# In the name of a case: addresses and times; TCP-AO's tests say how many packets they counted, and
# which of their sockets were open long enough to be reset.
VARYING = re.compile(
    r"\b0x[0-9a-f]+\b|\b\d+\.\d+\b|\b\d+ => \d+\b|(?<=\[)\d+(?=\])|(?<=expectations: )\d+"
    r"|(?<=\] = )\d+(, connection was reset)?"
)


@dataclass(frozen=True)
class Test:
    """A selftest: folder under tools/testing/selftests, programs to compile, command.

    What it needs in its network namespace is prepared by another command.
    """

    folder: str
    programs: tuple[str, ...]
    command: str
    prepare: str = "true"

    @property
    def name(self) -> str:
        said = self.programs[0] if self.command.startswith("sh -c") else self.command
        return f"{self.folder}: {said.removeprefix('./')}"


def plain(folder: str, *names: str) -> list[Test]:
    """Tests that are a program each."""
    return [Test(folder, (name,), f"./{name}") for name in names]


def script(name: str, *programs: str) -> Test:
    return Test("net", programs, f"./{name}")


AO = ("connect", "connect-deny", "restore", "rst", "self-connect", "setsockopt-closed")
TESTS = [
    *plain(
        "net", "reuseport_bpf", "reuseport_bpf_cpu", "reuseport_bpf_numa", "reuseport_dualstack"
    ),
    script("reuseport_addr_any.sh", "reuseport_addr_any"),
    *plain("net", "reuseaddr_conflict"),
    script("reuseaddr_ports_exhausted.sh", "reuseaddr_ports_exhausted"),
    Test(
        "net",
        ("stress_reuseport_listen",),
        "./stress_reuseport_listen 20 80",
        "sysctl -qw net.ipv6.ip_nonlocal_bind=1",
    ),
    *plain("net", "so_incoming_cpu", "sk_bind_sendto_listen", "sk_connect_zero_addr"),
    *plain("net", "bind_wildcard", "bind_timewait", "sk_so_peek_off", "so_netns_cookie"),
    Test("net", ("bind_bhash",), "./bind_bhash.sh -6"),
    Test("net", ("bind_bhash",), "./bind_bhash.sh -4"),
    script("ip_local_port_range.sh", "ip_local_port_range"),
    script("tcp_fastopen_backup_key.sh", "tcp_fastopen_backup_key"),
    Test("net", ("tcp_inq",), "./tcp_inq -4"),
    Test("net", ("tcp_inq",), "./tcp_inq -6"),
    # It sends 32 GiB; as much of it as comes in half a minute is enough.
    Test(
        "net",
        ("tcp_mmap",),
        "sh -c 'stdbuf -oL ./tcp_mmap -s -z >server & server=$!; sleep 2;"
        " timeout 30 ./tcp_mmap -H ::1 -z -a 0; sleep 2; kill $server; grep received server'",
    ),
    script("fin_ack_lat.sh", "fin_ack_lat"),
    script("run_netsocktests", "socket"),
    script("io_uring_zerocopy_tx.sh", "io_uring_zerocopy_tx", "msg_zerocopy"),
    script("psock_snd.sh", "psock_snd"),
    script("ipv6_flowlabel.sh", "ipv6_flowlabel", "ipv6_flowlabel_mgr"),
    script("udpgso.sh", "udpgso"),
    script("cmsg_so_mark.sh", "cmsg_sender"),
    *plain("net", "tls", "tun", "txring_overwrite", "epoll_busy_poll"),
    *plain("net/af_unix", "diag_uid", "msg_oob", "scm_pidfd", "scm_rights", "unix_connect"),
    *plain("net/tcp_ao", *(f"{name}_ipv{family}" for name in AO for family in (4, 6))),
    *plain("filesystems/epoll", "epoll_wakeup_test"),
]


@dataclass
class Outcome:
    """What one run of a test came to: its exit status, and each case's result by its name."""

    status: int
    cases: dict[str, str]

    def __str__(self) -> str:
        skipped = sum("# SKIP" in name for name in self.cases)
        passed = sum(result == "ok" for result in self.cases.values()) - skipped
        word = {0: "pass", SKIP: "skip", TIMED_OUT: "timeout", NOT_RUN: "not run"}.get(
            self.status, f"fail ({self.status})"
        )
        if not self.cases:
            return word
        failed = len(self.cases) - passed - skipped
        parts = [f"{passed} ok"]
        parts += [f"{failed} not ok"] if failed else []
        parts += [f"{skipped} skipped"] if skipped else []
        return f"{word}: {', '.join(parts)}"


@dataclass
class Runs:
    """All outcomes of a test, by kernel."""

    outcomes: dict[str, list[Outcome]] = field(
        default_factory=lambda: {kernel: [] for kernel in KERNELS}
    )

    def results(self, kernel: str, case: str) -> set[str]:
        """All that a case came to on a kernel; "" is the exit status."""
        if not case:
            return {str(outcome.status) for outcome in self.outcomes[kernel]}
        return {outcome.cases.get(case, "did not run") for outcome in self.outcomes[kernel]}

    def cases(self) -> list[str]:
        every = [outcome for kernel in KERNELS for outcome in self.outcomes[kernel]]
        names = list(dict.fromkeys(name for outcome in every for name in outcome.cases))
        # Beside cases, 0 and 1 only sum them up.
        own = not names or any(outcome.status not in (0, 1) for outcome in every)
        return names + [""] * own

    def differing(self) -> list[str]:
        """The cases that came to something on one kernel only."""
        found = []
        for case in self.cases():
            patched, untouched = (self.results(kernel, case) for kernel in KERNELS)
            # It varies by itself if what one kernel came to, the other came to as well.
            varies = len(untouched) > 1 and patched & untouched
            if patched != untouched and not varies:
                found.append(case)
        return found

    def verdict(self) -> str:
        if cases := [case or "exit status" for case in self.differing()]:
            more = f" and {len(cases) - 3} more" if len(cases) > 3 else ""
            return f"differs: {', '.join(cases[:3])}{more}"
        seen = [outcome for kernel in KERNELS for outcome in self.outcomes[kernel]]
        return "same" if all(outcome == seen[0] for outcome in seen) else "varies on both"


def cases_of(log: str) -> dict[str, str]:
    """The lines of the test anything protocol, without what changes from run to run."""
    found = re.findall(r"^(?:# )?(ok|not ok) \d+ ?(.*)$", log, re.MULTILINE)
    cases: dict[str, str] = {}
    for result, text in found:
        name = VARYING.sub("N", text).strip()
        # Names are not unique in all tests.
        while name in cases:
            name += "'"
        cases[name] = result
    return cases


# Compiling


def compile_tests(tree: Path, place: Path, jobs: int) -> dict[str, str]:
    """Compile every test into `place`; the reasons why some are not to be had, by program."""
    headers = place / "usr"
    if not (headers / "include").exists():
        scratch = place / "headers"
        make(["-C", str(tree), f"O={scratch}", f"INSTALL_HDR_PATH={headers}", "headers_install"])
    missing = {}
    for folder in dict.fromkeys(test.folder for test in TESTS):
        source = tree / "tools/testing/selftests" / folder
        output = place / folder
        output.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            if path.suffix == ".sh" or path.name == "run_netsocktests":
                shutil.copy2(path, output)
        programs = [name for test in TESTS if test.folder == folder for name in test.programs]
        for program in dict.fromkeys(programs):
            if (output / program).exists():
                continue
            said = make(
                [
                    *("-C", str(source), f"-j{jobs}", f"OUTPUT={output}"),
                    # reuseport_bpf_numa.c of 6.12.117 uses bool without its header.
                    f"KHDR_INCLUDES=-isystem {headers}/include -include stdbool.h",
                    str(output / program),
                ],
                check=False,
            )
            if not (output / program).exists():
                errors = re.findall(r"(?:error: |cannot find )(.*)", said)
                missing[f"{folder}/{program}"] = errors[0] if errors else "it does not compile"
    return missing


def make(argv: Sequence[str], *, check: bool = True) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")}
    done = subprocess.run(
        ["make", "-s", "--no-print-directory", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        check=False,
    )
    if check and done.returncode:
        sys.exit(f"error: make {' '.join(argv)}:\n{done.stdout[-2000:]}")
    return done.stdout


# Running


def guest_script(tests: Sequence[Test], ours: Sequence[Path], place: Path, results: Path) -> str:
    """What the guest runs: each test in a fresh network namespace, its log and status kept."""
    lines = [
        "#!/bin/sh",
        "exec </dev/null",
        "mount -t tmpfs none /mnt 2>/dev/null",
        f"cp -r {place}/net {place}/filesystems /mnt/",
        "sysctl -qw kernel.hung_task_timeout_secs=0 2>/dev/null",
        "ulimit -n 65536",
    ]
    for number, test in enumerate(tests):
        inside = f"ip link set lo up; {test.prepare}; exec {test.command}"
        log = results / f"{number:03}.log"
        lines += [
            f"echo 'selftest: {number}' >/dev/kmsg",
            f"cd /mnt/{test.folder}",
            f"timeout -k 5 {DEADLINE_S} unshare -n sh -c {shlex.quote(inside)} >{log} 2>&1",
            f"echo $? >{results}/{number:03}.status",
            # What a test left running would disturb the next.
            'for d in /run/netns/*; do [ -e "$d" ] && ip netns del "${d##*/}"; done 2>/dev/null',
        ]
    lines.append(f"test -e /dev/megapipe; echo $? >{results}/device")
    for program in ours:
        log = results / f"ours-{program.name}"
        lines.append(f"timeout -k 5 {DEADLINE_S} {program} >{log}.log 2>&1; echo $? >{log}.status")
    lines += [f"dmesg >{results}/dmesg", f"echo done >{results}/done"]
    return "\n".join(lines) + "\n"


def run(
    vng: Path,
    image: Path,
    tests: Sequence[Test],
    place: Path,
    results: Path,
    *,
    ours: Sequence[Path] = (),
) -> list[Outcome]:
    """Boot `image` and run the tests in it; their outcomes in the same order."""
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    guest = results / "run.sh"
    guest.write_text(guest_script(tests, ours, place, results))
    guest.chmod(0o755)
    argv = [
        *(str(vng), "--run", str(image), "--disable-kvm", "--cpus", "4", "--memory", "2G"),
        *("--force-9p", f"--rwdir={results}", "--exec", str(guest)),
    ]
    with (results / "console").open("w") as console:
        try:
            subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                # vng looks for its other half there.
                env={**os.environ, "PATH": f"{vng.parent}:{os.environ['PATH']}"},
                timeout=BOOT_S + DEADLINE_S * len(tests),
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"error: {image}: the guest did not end", file=sys.stderr)
    outcomes = []
    for number in range(len(tests)):
        status, log = results / f"{number:03}.status", results / f"{number:03}.log"
        if status.exists():
            text = log.read_text(errors="replace") if log.exists() else ""
            outcomes.append(Outcome(int(status.read_text()), cases_of(text)))
        else:
            outcomes.append(Outcome(NOT_RUN, {}))
    return outcomes


def without_device(results: Path, ours: Sequence[Path]) -> list[str]:
    """What is wrong with our selftests on a kernel without MegaPipe: nothing may fail there, and
    of each program at least one test must skip."""
    if not (results / "done").exists():
        return ["the guest did not come to our selftests"]
    if (results / "device").read_text().strip() != "1":
        return ["/dev/megapipe is there"]
    wrong = []
    for path in ours:
        status = int((results / f"ours-{path.name}.status").read_text())
        said = (results / f"ours-{path.name}.log").read_text(errors="replace")
        if status not in (0, SKIP) or "SKIP" not in said:
            wrong.append(f"{path.name}: status {status}, not a skip")
    return wrong


def kernel_log(results: Path) -> list[str]:
    """Lines of a guest's kernel log that no kernel should say."""
    log = results / "dmesg"
    if not log.exists():
        return ["the guest did not come to its end"]
    bad = re.compile(r"WARNING:|BUG:|Oops|general protection|KASAN|possible circular|INFO: rcu")
    return [line for line in log.read_text(errors="replace").splitlines() if bad.search(line)]


# Telling


def table(tests: Sequence[Test], runs: Mapping[int, Runs], missing: Mapping[str, str]) -> str:
    lines = ["| test | patched | untouched | |", "|---|---|---|---|"]
    for number, test in enumerate(tests):
        absent = [f"{test.folder}/{program}" for program in test.programs]
        why = next((missing[name] for name in absent if name in missing), None)
        name = test.name
        if why is not None:
            lines.append(f"| {name} | | | not compiled: {why} |")
            continue
        seen = {kernel: "; ".join(told(runs[number].outcomes[kernel])) for kernel in KERNELS}
        lines.append(
            f"| {name} | {seen['patched']} | {seen['untouched']} | {runs[number].verdict()} |"
        )
    return "\n".join(lines) + "\n"


def told(outcomes: Iterable[Outcome]) -> list[str]:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[str(outcome)] = counts.get(str(outcome), 0) + 1
    return [text + (f" ({count} times)" if count > 1 else "") for text, count in counts.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--table", type=Path, help="write the table into this file")
    parser.add_argument(
        "--only", default="", help="tests whose name this matches (a regular expression)"
    )
    args = parser.parse_args()
    build = args.build.resolve()
    images = {
        kernel: build / f"kernel-{config}/arch/x86/boot/bzImage"
        for kernel, config in zip(KERNELS, ("selftests", "stock"), strict=True)
    }
    for image in images.values():
        if not image.exists():
            print(f"error: no {image} (make -C kernel-patch peers builds it)", file=sys.stderr)
            return 1
    place = build / "peers"
    missing = compile_tests(build / "linux-stock", place, args.jobs)
    chosen = [test for test in TESTS if re.search(args.only, test.name)]
    runs = {number: Runs() for number in range(len(chosen))}
    there = [
        (number, test)
        for number, test in enumerate(chosen)
        if not any(f"{test.folder}/{program}" in missing for program in test.programs)
    ]
    ours = sorted(
        path
        for path in (build / "selftests").glob("*")
        # These kernels run no 32-bit programs.
        if path.is_file() and os.access(path, os.X_OK) and not path.name.endswith("_32")
        if not args.only
    )
    complaints = []
    wanted = there
    for round_number in range(1 + AGAIN):
        for kernel in KERNELS:
            results = place / f"{kernel}-{round_number}"
            skipping = ours if kernel == "untouched" and not round_number else []
            outcomes = run(
                *(build / "venv/bin/vng", images[kernel], [test for _, test in wanted]),
                *(place, results),
                ours=skipping,
            )
            if skipping:
                complaints += [f"{kernel}: {text}" for text in without_device(results, ours)]
            for (number, _), outcome in zip(wanted, outcomes, strict=True):
                runs[number].outcomes[kernel].append(outcome)
            complaints += [f"{kernel}: {line}" for line in kernel_log(results)]
        wanted = [pair for pair in there if runs[pair[0]].differing() for _ in range(REPEATS)]
        print(f"round {round_number}: {len(wanted) // REPEATS} tests differ", file=sys.stderr)
        if not wanted:
            break
    text = table(chosen, runs, missing)
    print(text, end="")
    if args.table:
        args.table.write_text(text)
    verdicts = [runs[number].verdict() for number, _ in there]
    differing = [verdict for verdict in verdicts if verdict.startswith("differs")]
    for line in complaints:
        print(f"complaint: {line}")
    print(
        f"peers: {len(there)} tests: {verdicts.count('same')} same, "
        f"{verdicts.count('varies on both')} vary on both, {len(differing)} differ; "
        f"{len(missing)} programs not compiled; {len(ours)} of ours skip on the untouched kernel"
    )
    return int(bool(differing or complaints))


if __name__ == "__main__":
    sys.exit(main())

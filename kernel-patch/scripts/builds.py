#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Build what we touch in every configuration that it has conditions for.

Each line of the output is a proof: a configuration builds without a warning;
with MEGAPIPE=n the objects are those of the untouched kernel; the kernel builds
after each hook; W=1 has nothing to say. "objects" (the quick way) builds the
objects whose source a hook edits, those that use what it edits, and
net/megapipe; "all" builds net/ and security/selinux/ whole and links the kernel
where a condition decides what is linked.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tree as trees
from objects import differences

# They use the structures and the functions that the hooks edit.
RELATED = (
    "net/core/stream.o",
    "net/ipv4/af_inet.o",
    "net/ipv4/inet_connection_sock.o",
    "net/ipv4/inet_diag.o",
    "net/ipv4/tcp_ipv4.o",
    "net/ipv4/tcp_minisocks.o",
    "net/ipv6/tcp_ipv6.o",
)
WHOLE = ("net/", "security/selinux/")
# Objects in these folders are there only if the option is.
OPTIONAL = {"net/ipv6/": "IPV6", "security/selinux/": "SECURITY_SELINUX", "net/mptcp/": "MPTCP"}


@dataclass(frozen=True)
class Variant:
    """A configuration: options over vm.config and check.config, and what to do with it."""

    name: str
    options: dict[str, str] = field(default_factory=dict)
    arch: str = "x86_64"
    link: bool = False


OFF = {"MEGAPIPE": "n"}
NO_IPV6 = {"IPV6": "n", "MPTCP_IPV6": "n"}
NO_SMP = {"SMP": "n", "NR_CPUS": "1"}
NO_TRACING = {"FTRACE": "n", "PERF_EVENTS": "n", "BPF_SYSCALL": "n"}
VARIANTS = (
    Variant("MEGAPIPE=y", link=True),
    Variant("IPV6=n", NO_IPV6, link=True),
    Variant("IPV6=m", {"MODULES": "y", "IPV6": "m", "MPTCP_IPV6": "n"}, link=True),
    Variant("SMP=n", NO_SMP, link=True),
    Variant("JUMP_LABEL=n", {"JUMP_LABEL": "n"}),
    Variant("SYN_COOKIES=n", {"SYN_COOKIES": "n"}),
    Variant("MPTCP=n TLS=n", {"MPTCP": "n", "TLS": "n"}),
    Variant("BPF_STREAM_PARSER=n", {"BPF_STREAM_PARSER": "n"}),
    Variant("SECURITY=n", {"SECURITY": "n"}),
    Variant("CGROUPS=n", {"CGROUPS": "n"}),
    Variant("IA32_EMULATION=n", {"IA32_EMULATION": "n"}),
    Variant("no tracing, no BPF", {"EXPERT": "y", **NO_TRACING}),
    Variant("PROC_FS=n", {"EXPERT": "y", "PROC_FS": "n"}),
    Variant("KUNIT=y", {"KUNIT": "y", "MEGAPIPE_KUNIT_TEST": "y"}),
    Variant("PREEMPT_RT=y", {"EXPERT": "y", "PREEMPT_RT": "y"}),
    Variant("i386", {"64BIT": "n"}, arch="i386", link=True),
)
# Against the untouched kernel.
SAME = (
    Variant("MEGAPIPE=n", OFF),
    Variant("MEGAPIPE=n IPV6=n", {**OFF, **NO_IPV6}),
    Variant("MEGAPIPE=n SMP=n", {**OFF, **NO_SMP}),
    Variant("MEGAPIPE=n JUMP_LABEL=n", {**OFF, "JUMP_LABEL": "n"}),
)


class CheckError(Exception):
    pass


def read_fragment(path: Path) -> dict[str, str]:
    options = {}
    for line in path.read_text().splitlines():
        if found := re.match(r"CONFIG_(\w+)=(.*)|# CONFIG_(\w+) is not set", line):
            options[found[1] or found[3]] = found[2] if found[1] else "n"
    return options


@dataclass
class Builds:
    source: Path
    tarball: Path
    build: Path
    jobs: int
    whole: bool

    def __post_init__(self) -> None:
        self.work = self.build / "check"
        self.work.mkdir(parents=True, exist_ok=True)
        (self.work / "log").mkdir(exist_ok=True)
        self.hooks = sorted((self.source / "hooks").glob("*.patch"))
        self.edited = sorted(set().union(*(trees.touched_by(hook) for hook in self.hooks)))

    # Trees and configurations

    def tree(self, name: str, *, hooks: int | None = None, pristine: bool = False) -> Path:
        tree = self.build / name
        tops = () if pristine else trees.OVERLAY
        trees.make_tree(self.source, self.tarball, tree, 0 if pristine else hooks, tops)
        return tree

    def make(
        self, tree: Path, objects: Path, targets: Sequence[str], variant: Variant, *flags: str
    ) -> str:
        """Run make; what it said. All of it goes to a log too, for whoever looks for a cause."""
        ccache = "ccache " if shutil.which("ccache") else ""
        argv = [
            *("make", "--no-print-directory", "-s", "-C", str(tree), f"O={objects}"),
            *("LOCALVERSION=", f"ARCH={variant.arch}", f"-j{self.jobs}"),
            *(f"CC={ccache}gcc", f"HOSTCC={ccache}gcc", *flags, *targets),
        ]
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("MAKE")},
            "KCONFIG_NOSILENTUPDATE": "1",
            # Else ccache makes paths relative, which the kernel's makefile does not know to
            # cut from __FILE__: the name of the tree would get into the objects.
            "CCACHE_BASEDIR": "",
        }
        environment.pop("MFLAGS", None)
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            check=False,
        )
        log = self.work / "log" / (re.sub(r"\W+", "-", f"{objects.name} {variant.name}") + ".log")
        log.write_text(" ".join(argv) + "\n" + done.stdout)
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if line.strip()]
            telling = [line for line in lines if re.search(r"error|undefined|\*\*\*", line)]
            raise CheckError("\n".join([*(telling or lines)[:8], f"see {log}"]))
        return done.stdout

    def configure(self, tree: Path, objects: Path, variant: Variant) -> dict[str, str]:
        """Ask for a variant; the options as they came out. What was not to be had is an error."""
        objects.mkdir(parents=True, exist_ok=True)
        asked = read_fragment(self.source / "config/vm.config")
        asked |= read_fragment(self.source / "config/check.config") | variant.options
        self.make(tree, objects, ["tinyconfig"], variant)
        with (objects / ".config").open("a") as config:
            for name, value in asked.items():
                line = f"CONFIG_{name}={value}" if value != "n" else f"# CONFIG_{name} is not set"
                config.write(line + "\n")
        self.make(tree, objects, ["olddefconfig"], variant)
        have = read_fragment(objects / ".config")
        wanted = {"MEGAPIPE": "y", **variant.options}
        if "megapipe" not in (tree / "net/Kconfig").read_text():
            del wanted["MEGAPIPE"]
        for name, value in wanted.items():
            if have.get(name, "n") != value:
                raise CheckError(f"CONFIG_{name}: asked for {value}, got {have.get(name, 'n')}")
        return have

    # What to build

    def objects_of(self, have: dict[str, str], sources: Iterable[str]) -> list[str]:
        """The objects of these sources and of those related to them that this variant has."""
        names = {name[:-2] + ".o" for name in sources if name.endswith(".c")} | set(RELATED)
        for folder, option in OPTIONAL.items():
            if have.get(option, "n") == "n":
                names = {name for name in names if not name.startswith(folder)}
        return sorted(names)

    def targets(self, have: dict[str, str]) -> list[str]:
        objects = self.objects_of(have, self.edited)
        if self.whole:
            folders = [name for name in WHOLE if have.get(OPTIONAL.get(name, ""), "y") != "n"]
            return folders + [name for name in objects if not name.startswith(tuple(folders))]
        return objects + (["net/megapipe/"] if have.get("MEGAPIPE") == "y" else [])

    @staticmethod
    def made(objects: Path, target: str) -> list[Path]:
        """The objects that a target stands for."""
        path = objects / target
        return sorted(path.rglob("*.o")) if target.endswith("/") else [path]

    # The proofs: each returns what it has shown, or raises CheckError

    def builds(self, variant: Variant) -> str:
        tree, objects = self.tree("linux"), self.work / f"patched-{variant.arch}"
        have = self.configure(tree, objects, variant)
        link = ["vmlinux"] if self.whole and variant.link else []
        said = self.make(tree, objects, [*self.targets(have), *link], variant)
        if warnings := [line for line in said.splitlines() if "warning:" in line]:
            raise CheckError("\n".join(warnings[:8]))
        return "builds" + (", links" if link else "")

    def same(self, variant: Variant) -> str:
        """With MEGAPIPE=n: the objects of the untouched kernel."""
        places = {}
        for name, pristine in (("linux", False), ("linux-stock", True)):
            tree = self.tree(name, pristine=pristine)
            objects = places[name] = self.work / ("stock" if pristine else "patched-x86_64")
            have = self.configure(tree, objects, variant)
            targets = self.targets(have)
            for target in targets:
                for old in self.made(objects, target):
                    old.unlink(missing_ok=True)
            self.make(tree, objects, targets, variant)
        found = {
            name: {
                str(path.relative_to(objects))
                for target in targets
                for path in self.made(objects, target)
            }
            for name, objects in places.items()
        }
        if extra := sorted(found["linux"] ^ found["linux-stock"]):
            raise CheckError("objects that only one kernel has: " + " ".join(extra))
        names = sorted(found["linux"])
        wrong = []
        for name in names:
            if parts := differences(places["linux"] / name, places["linux-stock"] / name):
                wrong.append(f"{name}: {', '.join(parts[:6])}")
        if wrong:
            raise CheckError("\n".join(wrong))
        return f"{len(names)} objects are the untouched kernel's"

    def after_hook(self, count: int) -> str:
        """The tree with the first hooks only builds too."""
        variant = Variant(f"hooks-{count}")
        tree, objects = self.tree("linux-check", hooks=count), self.work / "hooks"
        have = self.configure(tree, objects, variant)
        said = self.make(tree, objects, self.targets(have), variant)
        if warnings := [line for line in said.splitlines() if "warning:" in line]:
            raise CheckError("\n".join(warnings[:8]))
        return "builds"

    def extra_warnings(self) -> str:
        """W=1: nothing in net/megapipe, nothing new in the files that hooks edit."""
        said = {}
        for name, pristine in (("linux", False), ("linux-stock", True)):
            tree = self.tree(name, pristine=pristine)
            objects = self.work / ("stock" if pristine else "patched-x86_64")
            variant = Variant("W=1", OFF if pristine else {})
            have = self.configure(tree, objects, variant)
            targets = self.objects_of(have, self.edited)
            for target in targets:
                (objects / target).unlink(missing_ok=True)
            for old in (objects / "net/megapipe").glob("*.o"):
                old.unlink()
            if not pristine:
                targets.append("net/megapipe/")
            text = self.make(tree, objects, targets, variant, "W=1")
            # Without line and column: ours moved the lines.
            said[name] = {
                re.sub(r":\d+(:\d+)?:", ":", line)
                for line in text.splitlines()
                if "warning:" in line or "error:" in line
            }
        if new := sorted(said["linux"] - said["linux-stock"]):
            raise CheckError("\n".join(new[:8]))
        return "no warning that the untouched kernel has not"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="kernel-patch/")
    parser.add_argument("--tarball", type=Path, required=True)
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--what", choices=("objects", "all"), default="objects")
    parser.add_argument("--only", default="", help="proofs whose line contains this")
    args = parser.parse_args()
    builds = Builds(
        args.source.resolve(), args.tarball, args.build.resolve(), args.jobs, args.what == "all"
    )
    proofs = [(variant.name, lambda v=variant: builds.builds(v)) for variant in VARIANTS]
    proofs += [(f"same: {v.name}", lambda v=v: builds.same(v)) for v in SAME]
    proofs += [
        (f"after {count} of {len(builds.hooks)} hooks", lambda n=count: builds.after_hook(n))
        for count in range(len(builds.hooks) + 1)
    ]
    proofs.append(("W=1", builds.extra_warnings))
    failed = 0
    begin = time.monotonic()
    for name, proof in proofs:
        if args.only not in name:
            continue
        start = time.monotonic()
        try:
            shown, status = proof(), "ok"
        except (CheckError, trees.TreeError, ValueError, OSError) as error:
            shown, status = f"\n{error}", "failed"
            failed += 1
        seconds = time.monotonic() - start
        print(f"{status:7} {seconds:5.0f} s  {name}: {shown}", flush=True)
    print(f"builds: {failed} failed, {time.monotonic() - begin:.0f} s, of each: {args.what}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

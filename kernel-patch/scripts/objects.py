# SPDX-License-Identifier: GPL-2.0
"""Are two objects of the kernel the same code and data?

Compared is all that gets into the running kernel: every allocated section with
its flags and bytes, every relocation of it, and the global symbols with their
section, offset and size. Left out, since lines added above move them or they
name no code:

* the line numbers in __bug_table (the rest of its entries is compared);
* debugging information, comments, build ids: sections that are not allocated,
  and .note.gnu.build-id;
* the names of local symbols, which the compiler numbers by what it has read
  before (__warned.35): a relocation against one counts as section and offset.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 2, 4, 8, 9
SHF_ALLOC = 2
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
STB_LOCAL = 0
# struct bug_entry: address, file (relative, 4 bytes each), line, flags (2 bytes each)
BUG_ENTRY, BUG_LINE = 12, slice(8, 10)
LEFT_OUT = (".note.gnu.build-id",)


@dataclass
class Section:
    name: str
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    entry: int


class Object:
    """A relocatable ELF file, 32 or 64 bits, little-endian: as much of it as is compared."""

    def __init__(self, path: Path) -> None:
        self.raw = path.read_bytes()
        if self.raw[:4] != b"\x7fELF" or self.raw[5] != 1:
            raise ValueError(f"{path}: not a little-endian ELF file")
        self.wide = self.raw[4] == 2
        at, form = (0x28, "<Q") if self.wide else (0x20, "<I")
        (table,) = struct.unpack_from(form, self.raw, at)
        entry, count, names = struct.unpack_from("<HHH", self.raw, 0x3A if self.wide else 0x2E)
        self.sections = [self._section(table + entry * i) for i in range(count)]
        strings = self.sections[names]
        for section in self.sections:
            section.name = self._string(strings, int(section.name))
        self.symbols = self._symbols()

    def _section(self, at: int) -> Section:
        form = "<IIQQQQIIQQ" if self.wide else "<IIIIIIIIII"
        name, kind, flags, _, offset, size, link, info, _, entry = struct.unpack_from(
            form, self.raw, at
        )
        return Section(str(name), kind, flags, offset, size, link, info, entry)

    def _string(self, table: Section, at: int) -> str:
        start = table.offset + at
        return self.raw[start : self.raw.index(b"\0", start)].decode()

    def _symbols(self) -> list[tuple[str, int, int, int, int]]:
        """(name, binding, section index, value, size), in the order of the table."""
        found = []
        for table in self.sections:
            if table.kind != SHT_SYMTAB:
                continue
            for at in range(table.offset, table.offset + table.size, table.entry):
                if self.wide:
                    name, info, _, index, value, size = struct.unpack_from("<IBBHQQ", self.raw, at)
                else:
                    name, value, size, info, _, index = struct.unpack_from("<IIIBBH", self.raw, at)
                text = self._string(self.sections[table.link], name)
                found.append((text, info >> 4, index, value, size))
        return found

    def _place(self, index: int) -> str:
        return self.sections[index].name if index < SHN_LORESERVE else f"#{index:x}"

    def _bytes(self, section: Section) -> bytes:
        if section.kind == SHT_NOBITS:
            return b""
        data = bytearray(self.raw[section.offset : section.offset + section.size])
        if section.name == "__bug_table":
            for at in range(0, len(data), BUG_ENTRY):
                data[at + BUG_LINE.start : at + BUG_LINE.stop] = b"\0\0"
        return bytes(data)

    def _relocations(self, section: Section) -> list[tuple[int, int, str, int]]:
        found = []
        for at in range(section.offset, section.offset + section.size, section.entry):
            addend = 0
            if self.wide:
                where, info, addend = struct.unpack_from("<QQq", self.raw, at)
                kind, number = info & 0xFFFFFFFF, info >> 32
            else:
                where, info = struct.unpack_from("<II", self.raw, at)
                kind, number = info & 0xFF, info >> 8
            name, binding, index, value, _ = self.symbols[number]
            if binding == STB_LOCAL and index != SHN_UNDEF:
                name, addend = self._place(index), addend + value
            found.append((where, kind, name, addend))
        return found

    def contents(self) -> dict[str, object]:
        """What is compared, by a name that says what it is."""
        content: dict[str, object] = {}
        loaded = [
            i
            for i, section in enumerate(self.sections)
            if section.flags & SHF_ALLOC and section.name not in LEFT_OUT
        ]
        counts: dict[str, int] = {}
        labels = {}
        for index in loaded:
            section = self.sections[index]
            number = counts[section.name] = counts.get(section.name, 0) + 1
            label = labels[index] = section.name + (f" ({number})" if number > 1 else "")
            data = self._bytes(section)
            content[label] = (section.kind, section.flags, section.size, data)
        for section in self.sections:
            if section.kind in (SHT_RELA, SHT_REL) and section.info in labels:
                content[f"relocations of {labels[section.info]}"] = self._relocations(section)
        content["global symbols"] = sorted(
            (name, binding, self._place(index), value, size)
            for name, binding, index, value, size in self.symbols
            if binding != STB_LOCAL
        )
        return content


def differences(ours: Path, theirs: Path) -> list[str]:
    """What differs between two objects, by section; empty if they are the same."""
    mine, other = Object(ours).contents(), Object(theirs).contents()
    return [key for key in sorted({*mine, *other}) if mine.get(key) != other.get(key)]

"""Make the ROS 2 wheels usable as a prefix: their CMake exports name folders of the machine that built them."""

from __future__ import annotations

import os
import re
import sysconfig
from pathlib import Path

PYTHON_BUILD = r"/opt/python/cp\d+-cp\d+"


def rewrite_build_paths(prefix: Path, include: str, site_packages: str) -> int:
    """Replace the build machine's folders in `share/*/` of the prefix; returns how many files changed.

    include: folder of Python.h. site_packages: folder with NumPy.
    """
    swaps = [
        (re.compile(PYTHON_BUILD + r"/include/python3\.\d+"), include),
        (re.compile(PYTHON_BUILD + r"/lib/python3\.\d+/site-packages"), site_packages),
        (re.compile(r"/project/build/[^\"';\s]*/install"), str(prefix)),
    ]
    changed = 0
    for file in sorted(prefix.glob("share/*/**/*")):
        if file.suffix not in (".cmake", ".sh", ".bash", ".zsh", ".dsv") or not file.is_file():
            continue
        old = file.read_text(encoding="utf-8")
        new = old
        for pattern, replacement in swaps:
            new = pattern.sub(replacement.replace("\\", r"\\"), new)
        if new != old:
            # The installer links files from its cache, which others use: a new file, never write through.
            fresh = file.with_name(file.name + ".new")
            fresh.write_text(new, encoding="utf-8")
            os.replace(fresh, file)
            changed += 1
    return changed


def main(prefix: Path) -> int:
    """Run by the environment's own Python, which knows its folders."""
    paths = sysconfig.get_paths()
    return rewrite_build_paths(prefix, paths["include"], paths["purelib"])

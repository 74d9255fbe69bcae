"""The plugin, compiled: tools/qemu-recorder and the engine, as one file, in one shared object."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from amalgamate import amalgamate
from tooling import ToolError, progress

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "tools" / "qemu-recorder"
ENGINE = ROOT / "csrc"
INTERFACE = ROOT / "examples" / "el2_monitor" / "interface.h"

# What QEMU exports stays undefined until it loads the plugin.
OPTIONS = (
    "-std=gnu11 -O3 -Wall -Wextra -Werror -fPIC -shared -pthread -fvisibility=hidden"
    " -fno-semantic-interposition"
)


def build(directory: Path) -> Path:
    """Compile the plugin, if what is there is older than its sources."""
    plugin = directory / "recorder.so"
    sources = [path for place in (PLUGIN, ENGINE) for path in place.rglob("*.[ch]")]
    newest = max(path.stat().st_mtime for path in [*sources, INTERFACE])
    if plugin.exists() and plugin.stat().st_mtime > newest:
        return plugin
    if shutil.which("gcc") is None:
        raise ToolError("gcc is not there: apt install gcc libc6-dev")
    progress("compiling the plugin")
    engine = directory / "p2mfast.c"
    engine.write_text(amalgamate("in a recorder"))
    sources = [*sorted(PLUGIN.glob("*.c")), engine]
    partial = directory / "recorder.so.partial"
    done = subprocess.run(
        ["gcc", *OPTIONS.split(), f"-I{ENGINE / 'include'}", "-o", partial, *sources],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ToolError(f"the plugin does not compile:\n{done.stderr[-4000:]}")
    partial.rename(plugin)
    return plugin

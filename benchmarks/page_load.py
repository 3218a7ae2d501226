"""How long a page takes to show its first brain, and how much of that is its own script.

Opens a page in headless Chromium with software rendering (no GPU) several times and prints, for
each, the seconds until the first brain is drawn and, from the browser's sampling profiler, the
seconds spent in the page's own functions (not in NiiVue, nor in the graphics driver that NiiVue
waits for). Asked of the page of a 300-volume run on 2 cores: under 15 MB, 10 s, 1 s. Without a
page, that of a run of 300 simulated volumes of 90 x 90 x 90 voxels in MNI space is made first.
Needs the test dependencies.

    python benchmarks/page_load.py [OUT/report.html] [--times 3]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from chromium import Page
from fake_run import fake_run
from g3dvit.report.page import render_page
from g3dvit.report.scene import scene_of

#: A name that only NiiVue's bundle has; scripts that hold it are not the page's own.
_OF_NIIVUE = "NVImage"


def own_seconds(page: Page) -> tuple[float, float]:
    """Return the self time of the page's own functions and of all others, in s."""
    profile = page.send("Profiler.stop")["profile"]
    by_script: dict[str, float] = defaultdict(float)
    script_of = {node["id"]: node["callFrame"]["scriptId"] for node in profile["nodes"]}
    name_of = {node["id"]: node["callFrame"]["functionName"] for node in profile["nodes"]}
    for node, microseconds in zip(profile["samples"], profile["timeDeltas"], strict=True):
        if name_of[node] not in ("(idle)", "(program)", "(root)"):
            by_script[script_of[node]] += microseconds / 1e6
    own = others = 0.0
    for script, seconds in by_script.items():
        source = "" if script == "0" else _source(page, script)
        if source and _OF_NIIVUE not in source:
            own += seconds
        else:
            others += seconds
    return own, others


def _source(page: Page, script: str) -> str:
    return str(page.send("Debugger.getScriptSource", scriptId=script)["scriptSource"])


def main() -> None:
    """Print one line per loading."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", nargs="?", type=Path)
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.page
        if path is None:
            path = Path(folder) / "report.html"
            path.write_text(render_page(scene_of(fake_run(n_volumes=300))), encoding="utf-8")
        print(f"{path.stat().st_size / 1e6:.1f} MB")
        for _ in range(options.times):
            with Page(timeout=180) as page:
                for command in ("Debugger.enable", "Profiler.enable", "Profiler.start"):
                    page.send(command)
                began = time.perf_counter()
                page.open(path)
                seconds = time.perf_counter() - began
                own, others = own_seconds(page)
                print(
                    f"first brain after {seconds:.1f} s; the page's own script {own:.2f} s, "
                    f"NiiVue and the driver {others:.2f} s"
                )


if __name__ == "__main__":
    main()

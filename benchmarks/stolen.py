"""Time of this machine's processors that a hypervisor has given to others, as Linux counts it (`steal` of proc(5))."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

STAT = Path("/proc/stat")
STEAL = 8  # word of the line that sums all processors: cpu user nice system idle iowait irq softirq steal
QUIET = 0.01  # share of the processors' time up to which a sample counts as undisturbed

Stolen = Callable[[], float]  # seconds since boot, over all processors


def stolen_s() -> float:
    """Seconds since boot, in ticks of 10 ms; 0 where nothing counts them: no Linux, or no hypervisor."""
    try:
        with STAT.open("rb", buffering=0) as file:
            words = file.read(256).split(b"\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(words[STEAL]) / os.sysconf("SC_CLK_TCK") if len(words) > STEAL else 0.0

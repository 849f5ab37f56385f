"""What importing the library adds to importing Lightning, in child processes."""

from __future__ import annotations

import subprocess
import sys

_LIGHTNING = "import pytorch_lightning"
_BOTH = "import pytorch_lightning, vis_callbacks; vis_callbacks.ActivationMonitor"
_TIMED = "from time import process_time as now; start = now(); {code}; print(now() - start)"


def added_import_seconds(*, num_pairs: int = 5) -> float:
    """Returns the difference between the fastest imports of both kinds, taken in turn.

    Processor time, for the clock on the wall scatters by more than the limit on a busy machine;
    and whatever disturbs an import makes it slower, so the fastest is the least disturbed. The
    public names are loaded lazily, so a callback is asked for too: ``import vis_callbacks`` by
    itself would load next to nothing.
    """
    pairs = [(_seconds(_LIGHTNING), _seconds(_BOTH)) for _ in range(num_pairs)]
    lightning, both = (min(side) for side in zip(*pairs, strict=True))
    return both - lightning


def _seconds(code: str) -> float:
    child = subprocess.run(
        [sys.executable, "-c", _TIMED.format(code=code)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(child.stdout.splitlines()[-1])

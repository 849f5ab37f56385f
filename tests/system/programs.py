"""Small programs of other people's kinds, each written as its author would write it.

None is written for our monitors: `test_programs` runs all of them with every monitor.
"""

from __future__ import annotations

# Listing is by import; the order is that of the table in the documentation.
import tests.system.image_programs
import tests.system.sequence_programs
import tests.system.training_programs  # noqa: F401
from tests.system.program import ENTRIES, Entry

PROGRAMS: dict[str, Entry] = {entry.name: entry for entry in ENTRIES}

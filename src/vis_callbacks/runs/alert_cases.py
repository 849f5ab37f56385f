"""What alerts.jsonl says of a run: one case for each cause, from its first alert to its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vis_callbacks.alerts.alert import SEVERITIES, Alert
from vis_callbacks.alerts.log import FILE_NAME, alert_from_line
from vis_callbacks.runs.growing_file import GrowingFile

MAX_CASES = 1000
# A file this large holds 8,000 alerts; of a larger one only its end is read, so that an answer
# comes at once.
MAX_BYTES = 8 << 20


@dataclass
class Case:
    """One cause of alerts.

    Attributes:
        alert: As it was written last.
        first_step: At which it was first raised.
        num_changes: How often it was written.
    """

    alert: Alert
    first_step: int
    num_changes: int = 1

    @property
    def is_firing(self) -> bool:
        """Whether it is an alert that has not been resolved."""
        return self.alert.state == "firing" and not self.is_remark

    @property
    def is_remark(self) -> bool:
        """Whether it is of severity "info", which is no alert."""
        return self.alert.severity == "info"

    @property
    def since(self) -> int:
        """The step at which it began."""
        since = self.alert.since_step
        return self.first_step if since is None else min(since, self.first_step)

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Sorts the worst and newest to the end."""
        return self.is_firing, SEVERITIES.index(self.alert.severity), self.alert.step


class AlertCases:
    """The cases of one run, which grow with its alerts.jsonl.

    Attributes:
        num_unreadable: Lines that are torn or hold no alert.
        last_step: The latest one that an alert names; None before the first.

    Args:
        folder: Of the run. It need not hold a file: the first alert makes it.
    """

    def __init__(self, folder: Path) -> None:
        self._file = GrowingFile(folder / FILE_NAME, tail=MAX_BYTES)
        self._open: dict[tuple[str, ...], Case] = {}
        self._all: list[Case] = []
        self.num_unreadable = 0
        self.num_dropped = 0
        self.num_lines = 0
        self.last_step: int | None = None
        self._error = ""

    def refresh(self, until: float = float("inf")) -> None:
        """Takes in the lines that are new, up to a time of `time.monotonic`."""
        self._error = ""
        try:
            for line in self._file.lines(until):
                self._take(line)
        except OSError as error:
            self._error = f"{FILE_NAME} cannot be read: {error.strerror}."

    @property
    def is_complete(self) -> bool:
        """Whether everything has been read that is there."""
        return self._file.is_at_end or bool(self._error)

    def ranked(self) -> list[Case]:
        """Returns the cases: firing before resolved before remarks, the worst and newest first."""
        return sorted(self._all, key=lambda case: (not case.is_remark, case.rank), reverse=True)

    def problems(self) -> list[str]:
        """Returns in sentences what could not be read."""
        file = self._file
        said = {
            f"{self.num_unreadable} lines of {FILE_NAME} are torn or no alerts.": (
                self.num_unreadable
            ),
            f"{file.num_too_long} lines of {FILE_NAME} are longer than 1 MiB and were passed "
            "over.": file.num_too_long,
            f"Only the last {MAX_BYTES >> 20} MiB of {FILE_NAME} were read; "
            f"{file.num_skipped_bytes >> 20} MiB before them were not.": file.num_skipped_bytes,
            f"{self.num_dropped} older alerts are not shown.": self.num_dropped,
            self._error: self._error,
        }
        return [sentence for sentence, is_so in said.items() if is_so]

    def _take(self, line: bytes) -> None:
        self.num_lines += 1
        try:
            alert = alert_from_line(line)
        except ValueError:
            self.num_unreadable += 1
            return
        if alert is None:
            return
        self.last_step = max(alert.step, self.last_step or 0)
        is_remark = str(alert.severity == "info")
        key = (alert.monitor, alert.kind, alert.cause, alert.stage, is_remark)
        case = self._open.get(key)
        if case is None:
            case = self._open[key] = Case(alert, alert.step)
            self._all.append(case)
            self._forget_the_oldest()
        else:
            case.alert, case.num_changes = alert, case.num_changes + 1
        if alert.state == "resolved":
            del self._open[key]

    def _forget_the_oldest(self) -> None:
        if len(self._all) > MAX_CASES:
            firing = [case for case in self._all if case.is_firing][-MAX_CASES // 2 :]
            kept = {id(case) for case in (*firing, *self._all[-MAX_CASES // 2 :])}
            self.num_dropped += len(self._all) - len(kept)
            self._all = [case for case in self._all if id(case) in kept]
            self._open = {key: case for key, case in self._open.items() if id(case) in kept}

"""Files as runs write them, made by hand."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.runs import TAB_NAME

ALERT = Alert(
    kind="dying_units",
    severity="warning",
    state="firing",
    step=60,
    epoch=1,
    stage="fit",
    message="Units are dying.",
    layers=("fc.1",),
    since_step=20,
    evidence={"newly_dead": 0.75, "layer": "fc.1"},
    sample_size=192,
    could_be=("an easy task",),
    remedy="Restart with a tenth of the rate.",
    monitor="activations",
)
RESOLVED = replace(ALERT, state="resolved", step=90)
CRITICAL = replace(ALERT, severity="critical", step=80, layers=("fc.1", "fc.3"))
REMARK = replace(ALERT, kind="newly_dead_units", severity="info", step=70)

NASTY = '<img src=x onerror="window.broken=1">'


def record(*values: Any, step: int, wall_time: float = 1e9) -> bytes:
    """Returns one record of an event file."""
    data = Event(step=step, wall_time=wall_time, summary=Summary(value=values)).SerializeToString()
    header = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (header, data)]
    return header + sums[0] + data + sums[1]


def number(tag: str, value: float) -> Any:
    return Summary.Value(tag=tag, simple_value=value)


def picture(tag: str, shade: int = 0) -> Any:
    return Summary.Value(tag=tag, image=Summary.Image(encoded_image_string=png(shade)))


def png(shade: int = 0) -> bytes:
    """Returns a small grey picture."""
    file = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def table(values: dict[str, list[float | None]], layers: list[str], tag: str = "a/layers") -> Any:
    return ours(json.dumps({"layers": layers, "metrics": values}).encode(), tag)


def ours(content: bytes, tag: str = "a/layers") -> Any:
    """Returns a summary of our plugin's, whatever it holds."""
    value = Summary.Value(tag=tag, tensor=TensorProto(string_val=[content]))
    value.metadata.plugin_data.plugin_name = TAB_NAME
    return value


def event_file(folder: Path, *records: bytes, name: str = "events.out.tfevents.1.host.1.0") -> Path:
    """Appends records to an event file of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with path.open("ab") as file:
        file.writelines(records)
    return path

"""The alerts that Weights & Biases sends on, to Slack or by e-mail."""

from __future__ import annotations

from typing import Any

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.writers.alert_text import facts_of, heading_of

_LEVELS = {"warning": "WARN", "critical": "ERROR"}
_MAX_TITLE = 63
# wandb drops an alert of the same title within this time; 0 would mean a minute to it.
_WAIT_SECONDS = 0.001


def has_wandb(logger: object) -> bool:
    """Whether it is Lightning's logger of wandb, or made from it."""
    return any(kind.__name__ == "WandbLogger" for kind in type(logger).__mro__)


def send_by_wandb(logger: Any, alert: Alert) -> None:
    """Sends an alert, or that one is over, by ``wandb.Run.alert``.

    References:
        https://docs.wandb.ai/guides/runs/alert
    """
    facts = [f"{name}: {text}" for name, text in facts_of(alert).items()]
    logger.experiment.alert(
        title=heading_of(alert)[:_MAX_TITLE],
        text="\n".join([alert.message, *facts]),
        level="INFO" if alert.state == "resolved" else _LEVELS[alert.severity],
        wait_duration=_WAIT_SECONDS,
    )

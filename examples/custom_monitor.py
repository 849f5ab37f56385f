"""An eighth monitor: how much doubt the scores of a classifier leave, with an alert."""

from torch.distributions import Categorical

from vis_callbacks import Finding, Monitor, Probe, Report, RuleMetrics, Scalar


class NoDoubt:
    """The classes are as good as certain, whatever the input."""

    kind, severity = "no_doubt", "warning"

    def check(self, history):
        doubt = history.smoothed("score_entropy")
        remedy = "If the validation loss rises, label_smoothing=0.1 keeps some doubt."
        message = f"The scores leave hardly any doubt: {doubt:.3f} nats on average"
        finding = Finding(message=message, evidence={"entropy": doubt}, remedy=remedy)
        return finding if doubt < 0.05 else None


class DoubtMonitor(Monitor):
    """Logs the mean entropy of the scores, which are the output of the layer ``head``."""

    rules = (NoDoubt(),)
    tags = ("score_entropy",)

    def probes(self):
        return [Probe(name="doubt", layers=["head"], reduce=entropy, merge={"sum": "sum"})]

    def observe(self, snapshot):
        mean = snapshot.values["doubt"]["head"]["sum"] / snapshot.num_samples["doubt"]
        for_rules = RuleMetrics(metrics=("score_entropy",), values=mean)
        shown = Scalar(tag="score_entropy", value=mean)
        return Report(step=snapshot.step, items=(shown, for_rules))


def entropy(activation, batch):
    """Returns the sum over the samples: sums of batches and ranks merge."""
    return {"sum": Categorical(logits=activation.values[:, :, 0]).entropy().sum().reshape(1)}

"""The page of the documentation that says how often the alerts are right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.alert_quality.followed import Followed, lines
from benchmarks.alert_quality.outcomes import Outcome
from benchmarks.alert_quality.published import RULES
from benchmarks.alert_quality.table import ANY, Line, Share

_HEAD = """# How often the alerts are right

Measured on {num} small trainings: {configurations} configurations of network, data, optimizer, \
schedule and batch size, each at seven rates from a hundredth to a hundred times a usual one, with \
one to six seeds. Dense, convolutional (plain, BatchNorm, GroupNorm), SE-ResNet, ConvNeXt-like, \
mixer, ViT, transformers on sequences and characters, LSTM, GRU, residual networks on tables, \
U-Net, autoencoders, VAE, GAN, SimCLR; ReLU, LeakyReLU, GELU, SiLU, tanh; SGD, momentum, Nesterov, \
Adam, AdamW, NAdam, RMSprop, Lion; constant, cosine, warm-up with cosine, OneCycle; batches of 4 \
to 256. Digits, patches of photographs, cells, English prose, made-up tables. 240 to 800 steps on \
a CPU; `ActivationMonitor`, `FilterMonitor` and `LearningMonitor` at their own schedules.

**Truth is the outcome, never a statistic.** The best rate of a configuration is the one with the \
highest mean score (accuracy, explained variance, Dice's coefficient, share of a constant's loss \
that is gone) on data that was kept apart. A training is *sick* where its own score and the mean \
over the seeds at its rate are both 3 points below that mean (SimCLR 1 point, GAN 15). All others \
count as *not sick*, also those that are a little worse. {sick} of the {num} are sick. \
Configurations that learn nothing at any rate are left out.

**The parts are kept apart by configuration.** Thresholds are taken from {tune} configurations \
("tune") and were then tried on {test} others ("test"). There `rate_too_high` was right in 10 of \
15 trainings only, and `diverging_loss` in 14 of 15: losses that shot up and came down again. Both \
were mended, so that for these two the test part is no test any more; {fresh} configurations were \
added after that ("fresh"), from which nothing was taken. The last threshold of `rate_too_high` (a \
cross-entropy that rose by 1.3 and is still 40 % of a constant's) was taken from the tuning part \
alone when 11 of these were known; 31 were added later. Two thresholds are younger still: the \
first step of `rate_too_high`, and the path over a whole training of `slow_learning`. They were \
taken from the tuning part, after their effect on the other two parts had been looked at. So \
{last} configurations were added then ("last"), six of them with a loss that stays high by nature \
(30 % of the labels drawn at random, values that are mostly noise). They raised 17 false alarms \
in 150 healthy trainings, nearly all on the six: now a fall of the loss counts for `slow_learning` \
where it is more than chance, and a single high loss no longer counts for `rate_too_high`. \
For these two conditions the last part is no test any more.

*right*: sick trainings among those with the alert. *false among healthy*: \
at the best rate or a third of it, and not sick. *found*: sick trainings at ten times the best \
rate or more, at a tenth or less. *delay*: share of the training that is over at the first right \
alert, median. In brackets Wilson's interval at 95 %. An alert that another explains is a remark \
and not counted; so what `dying_units` found is not counted for `rate_too_high` as well.
"""

_PART = """
## {title}

| alert | severity | right | false among healthy | found, too high | found, too low | delay |
|---|---|---|---|---|---|---|
"""

_TITLES = {"last": "Last part", "fresh": "Fresh part", "test": "Test part", "tune": "Tuning part"}

_BY_RATE = """
## By rate, and beside published rules

Test, fresh and last part together: any alert in sick trainings, and in those that are not sick.

| rate / best | sick, alarmed | not sick, alarmed |
|---|---|---|
"""

_PUBLISHED = """
Published rules on the trainings of the test part: SageMaker Debugger's `DeadRelu` (half of a \
layer fires on less than 1 % of a batch), keras-contrib's `DeadReluDetector` (10 % of a layer \
never fires, here on 128 samples), AUTOTRAINER (all its symptoms with the thresholds of its code, \
after each sixth of a training; it knows accuracies only, so that it is silent on other tasks \
unless the loss is not finite). Networks without ReLU are silent for the first two.

| rule | right | false among healthy | found, too high | found, too low | delay |
|---|---|---|---|---|---|
"""

_FOLLOWED = """
## Do the remedies help?

Nearly all remedies in the zoo say to train again at a tenth of the rate, or at ten times the \
rate, and such trainings are in it. So each remedy was followed to the letter, in all parts: \
*better* is a score that is higher by the margin of above, with the same seed where there is one. \
A remedy that says "again" is followed until the alert no longer comes. Not counted are \
{num_others} alerts whose remedy names something else, or a rate beyond the ladder's ends.

| alert | better | median score before, after |
|---|---|---|
"""

_END = """
`make zoo` trains all of it again in under an hour on two cores, and writes this page and \
`benchmarks/alert_quality/results.csv`. What the monitors have read of each training is kept, so \
that changed rules are judged in a minute: `python -m benchmarks.alert_quality judge`.
"""

# Bounds of rates by their ratio to the best, which lies on a ladder of half decades.
_BANDS = (
    ("100 and more", 60.0, float("inf")),
    ("30", 20.0, 60.0),
    ("10", 6.0, 20.0),
    ("3", 2.0, 6.0),
    ("1", 0.6, 2.0),
    ("1/3", 0.2, 0.6),
    ("1/10", 0.06, 0.2),
    ("1/30", 0.02, 0.06),
    ("1/100 and less", 0.0, 0.02),
)


def page(
    outcomes: Sequence[Outcome], found: Sequence[Line], done: Sequence[Followed], num_others: int
) -> str:
    """Returns the page, in Markdown."""
    names = {outcome.configuration: outcome.part for outcome in outcomes}
    parts = [*names.values()]
    head = _HEAD.format(
        num=f"{len(outcomes):,}",
        configurations=len(names),
        sick=sum(outcome.is_sick for outcome in outcomes),
        tune=parts.count("tune"),
        test=parts.count("test"),
        fresh=parts.count("fresh"),
        last=parts.count("last"),
    )
    untuned = [outcome for outcome in outcomes if outcome.part != "tune"]
    published = (line for line in found if line.part == "test" and line.rule in RULES)
    texts = [head]
    for part, title in _TITLES.items():
        texts += [_PART.format(title=title), *_ours(line for line in found if line.part == part)]
    texts += [_BY_RATE, *_by_rate(untuned), _PUBLISHED]
    texts += [f"| {' | '.join([line.rule, *_shares(line)])} |\n" for line in published]
    texts += [_FOLLOWED.format(num_others=num_others), *(f"{row}\n" for row in lines(done))]
    return "".join([*texts, _END])


def summary(found: Iterable[Line]) -> str:
    """Returns what `docs/alerts.md` says of it: any alert, and any critical one, of each part."""
    rows = [
        f"| {line.part}, {'any' if line.severity == ANY else line.severity} |"
        f" {' | '.join(_shares(line)[:-1])} |"
        for line in found
        if line.rule == ANY
    ]
    head = "| part, alert | right | false among healthy | found, too high | found, too low |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def _ours(found: Iterable[Line]) -> Iterator[str]:
    for line in found:
        if line.rule not in RULES:
            name = "any alert" if line.rule == ANY else f"`{line.rule}`"
            severity = "both" if line.severity == ANY else line.severity
            yield f"| {' | '.join([name, severity, *_shares(line)])} |\n"


def _shares(line: Line) -> list[str]:
    shares = (line.precision, line.false, line.too_high, line.too_low)
    return [*map(str, shares), line.cells()[-1]]


def _by_rate(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for name, low, high in _BANDS:
        band = [outcome for outcome in outcomes if low <= outcome.of_best < high]
        sick, others = (
            _alarmed(outcome for outcome in band if outcome.is_sick == is_sick)
            for is_sick in (True, False)
        )
        yield f"| {name} | {sick} | {others} |\n"


def _alarmed(outcomes: Iterable[Outcome]) -> Share:
    said = [bool(outcome.said) for outcome in outcomes]
    return Share(sum(said), len(said))

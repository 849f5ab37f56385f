"""Names of the numbers a history holds: what the monitors write and the rules read.

Numbers of the whole run stand under the layer ``""``; everything else is per layer, layers in
the order of the forward pass. NaN means "not known".
"""

from __future__ import annotations

# Of the whole run.
LOSS = "loss"  # mean over the step's samples, all micro-batches
NON_FINITE_LOSS = "non_finite_loss"  # 1 where the loss is NaN or infinite, else 0
LEARNING_RATE = "learning_rate"  # largest of all optimizer groups
WEIGHT_DECAY = "weight_decay"  # largest of all optimizer groups
NUM_SAMPLES = "num_samples"  # of this snapshot, all ranks and micro-batches
CONSTANT_INPUTS = "constant_inputs"  # share of samples whose input has standard deviation 0
INPUT_MEAN = "input_mean"  # over all values of the batch's inputs
INPUT_STD = "input_std"

# Of a layer with units that may die (it is exactly 0 on an interval). A unit is dead when it
# was 0 for every sample of a window; all shares are of all units of the layer.
NUM_UNITS = "num_units"
NEWLY_DEAD = "newly_dead"  # dead, and fired at some snapshot before
NEWLY_DEAD_LATE = "newly_dead_late"  # dead, and fired at step 5 or later
NEVER_FIRED = "never_fired"  # dead, and did not fire at any snapshot
DEAD_FRACTION = "dead_fraction"  # newly dead + never fired
REVIVED = "revived"  # was dead, and fired again
NORM_AT_DEATH = "norm_at_death"  # median, over the newly dead, of incoming norm / at the start
FIRST_DEATH_STEP = "first_death_step"  # since when the longest dead of them is silent
WINDOW_SAMPLES = "window_samples"  # fewest samples that a dead unit's verdict rests on
WINDOW_FULL = "window_full"  # 1 once the layer was read often enough for a verdict
REFERENCE_STEP = "reference_step"  # the layer's first snapshot: what "before" refers to

# Of any layer.
NON_FINITE = "non_finite"  # share of its units that held a NaN or an infinity
WEIGHT_NORM = "weight_norm"  # L2 norm of the weights that feed the layer
SPARSITY = "sparsity"  # share of values that are exactly 0
DORMANT_FRACTION = "dormant_fraction"  # share of units with E|h| <= .1 of the layer's mean
EFFECTIVE_AREA = "effective_area"  # share of a map's positions that carry its activation
FLAT_SHARE = "flat_share"  # share of values where the nonlinearity hardly has a gradient

# The first time that one of these is above 0 is remembered for the whole run.
LANDMARKS = (NON_FINITE, NON_FINITE_LOSS)


def flat_share_of(kind: str) -> str:
    """Returns the name of the flat share of one nonlinearity, e.g. ``flat_share_gelu``.

    How much is too much differs from one nonlinearity to the next, and a rule sees no more of
    a layer than the names of its numbers.
    """
    return f"{FLAT_SHARE}_{kind}"

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
COUNTS_ROWS = "counts_rows"  # 1 where its samples are rows that cannot be told apart by sample

# Of any layer.
NON_FINITE = "non_finite"  # share of its units that held a NaN or an infinity
REACHED = "reached"  # samples of this snapshot that have reached the layer
WEIGHT_NORM = "weight_norm"  # L2 norm of the weights that feed the layer
NUM_WEIGHTS = "num_weights"  # how many of these are not 0: pruned ones are
SPARSITY = "sparsity"  # share of values that are exactly 0
DORMANT_FRACTION = "dormant_fraction"  # share of units with E|h| <= .1 of the layer's mean
EFFECTIVE_AREA = "effective_area"  # share of a map's positions that carry its activation
FLAT_SHARE = "flat_share"  # share of values where the nonlinearity hardly has a gradient

# Of the filters of a layer that touches the input. Here the learning rate is a layer's own.
FILTER_ROUGHNESS = "filter_roughness"  # mean over the filters; white noise has 1
INITIAL_ROUGHNESS = "initial_roughness"  # the same of the weights that changes are seen from
ROUGHNESS_ERROR = "roughness_error"  # standard deviation of that mean, of white noise
FILTER_NOISE = "filter_noise"  # mean of min(roughness, 1) over the filters that are not dead
FILTER_CHANGE = "filter_change"  # |w - w0| / |w0| of the layer
INHERITED_SHARE = "inherited_share"  # of the layer's energy, along the initial filters
LEARNED_ROUGHNESS = "learned_roughness"  # of what training added, by energy
INPUT_ROUGHNESS = "input_roughness"  # of the reference samples' windows of the kernel's size
NOISE_LIKE = "noise_like"  # share of filters; known from 5x5 with three channels upwards
DEAD_FILTERS = "dead_filters"  # share of filters with a norm below a thousandth of the median
DOMINATING_FILTERS = "dominating_filters"  # norm above 5 x the median and the 95 % quantile
DUPLICATED_FILTERS = "duplicated_filters"  # |cosine| above .98 with another one
ODD_FILTERS = "odd_filters"  # share of filters of which one of these three holds
NUM_FILTERS = "num_filters"
KERNEL_SIZE = "kernel_size"  # the shortest side; 0 where neighbours mean nothing
DECAY_LEFT = "decay_left"  # factor that weight decay alone has left of the initial weights
FIRST_STEP = "first_step"  # of the weights that changes are seen from; 0: the initial ones
NUM_OPTIMIZERS = "num_optimizers"
PLANNED_STEPS = "planned_steps"  # of the whole run
TRAINING_LOSS = "training_loss"  # of the whole run, as the user logs it; or 1 - accuracy
VALIDATION_LOSS = "validation_loss"  # likewise

# Of the features of a layer over samples of an evaluation.
EFFECTIVE_RANK = "effective_rank"  # directions in which they vary; 0: all features are equal
FEATURE_SPREAD = "feature_spread"  # root mean squared distance from the mean / norm
CLASS_AGREEMENT = "class_agreement"  # share of the 10 nearest neighbours of the same class
NUM_EMBEDDED = "num_embedded"  # samples they are read of; of the whole run
NUM_CLASSES = "num_classes"  # different labels among these; of the whole run

# Of what the loss is computed from; of the whole run. Outputs as the loss is given them, or as the
# model returns them.
MEAN_LOSS = "mean_loss"  # of all steps since the snapshot before
HIGHEST_LOSS = "highest_loss"  # of these
BAD_STEP = "bad_step"  # the first of these whose loss is NaN or infinite
NUM_OUTPUTS = "num_outputs"
NUM_ROWS = "num_rows"  # samples, or their positions
OUTPUT_RANGE = "output_range"  # highest - lowest over the rows, of the output where it is largest
OUTPUT_SPREAD = "output_spread"  # standard deviation over the rows, mean over the outputs
OUTPUT_LOW = "output_low"
OUTPUT_HIGH = "output_high"
OUTPUT_ZEROS = "output_zeros"  # share that is exactly 0
ROW_SUM_ERROR = "row_sum_error"  # how far the sum of a row is from 1, at most
SHAPES_DIFFER = "shapes_differ"  # 1 where outputs and targets have different shapes
TARGET_LOW = "target_low"
TARGET_HIGH = "target_high"
TARGET_SPREAD = "target_spread"  # standard deviation, mean over the outputs; so far in the run
LARGEST_CLASS = "largest_class"  # its share of the labels, so far in the run
LARGEST_PREDICTED = "largest_predicted"  # share of this batch that is predicted to be of it
NUM_LABELS = "num_labels"  # how many these are
ACCURACY = "accuracy"  # of this batch
COLUMN_MEAN = "column_mean"  # largest |mean| of a column of the inputs, so far in the run
COLUMN_STD = "column_std"  # largest standard deviation of one
FORMULA_LOSS = "formula_loss"  # by formula (the layer): what it makes of outputs and targets
CONSTANT_LOSS = "constant_loss"  # likewise: of the best output that knows no input, so far
HEAD = "head"  # by kind of nonlinearity (the layer): 1 where it makes the outputs

# Of a weight, by the name of the parameter.
GRADIENT_NORM = "gradient_norm"  # before clipping
PARAMETER_NORM = "parameter_norm"  # before the update
UPDATE_NORM = "update_norm"  # of its change at this step
NUM_VALUES = "num_values"  # that it has; at the first look alone
WITHOUT_GRADIENT = "without_gradient"  # 1 where no gradient has reached it
WITHOUT_OPTIMIZER = "without_optimizer"  # 1 where no optimizer holds it

# The first time that one of these is above 0 is remembered for the whole run.
FIRST_OCCURRENCES = (NON_FINITE, NON_FINITE_LOSS)


def flat_share_of(kind: str) -> str:
    """Returns the name of the flat share of one nonlinearity, e.g. ``flat_share_gelu``.

    How much is too much differs from one nonlinearity to the next, and a rule sees no more of
    a layer than the names of its numbers.
    """
    return f"{FLAT_SHARE}_{kind}"

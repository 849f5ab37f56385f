"""Every tag that is written: how to read it, and whether TensorBoard draws a card for it.

TensorBoard shows each text at the card's information icon; the page "Every card" of the
documentation is made of this table.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple


class Card(NamedTuple):
    """What is known of a tag.

    Attributes:
        how_to_read: In Markdown.
        is_shown: False: TensorBoard draws no card, unless ``all_cards`` is set. The Health tab
            and other loggers always have it.
    """

    how_to_read: str
    is_shown: bool = True


def _aside(how_to_read: str) -> Card:
    return Card(how_to_read, is_shown=False)


# At defaults two runs fill at most 30 cards with what is shown: a picture is a card a run. All that
# monitors say which a user adds by hand is shown: whoever adds them wants to see it.
CARDS: dict[str, Card] = {
    "alerts/active": Card("Number of alerts that are firing. 0 is healthy."),
    "alerts/text": Card("All alerts so far, with evidence and remedy."),
    "activations/unit_life": Card(
        "Share of dead units: one row per layer, the first layer on top, time to the right. Dark "
        "is healthy; in a row that lights up, units are dying."
    ),
    "activations/raster": Card(
        "Every unit of the worst layer over time: alive, dead, revived, never fired. Units that "
        "die one after another look like a staircase."
    ),
    "activations/maps/<layer>": _aside(
        "Activation maps of single units for one image as training goes on. They usually begin "
        "dense and become sparser and more localised; in first layers they may only grow stronger. "
        "A cross marks a unit that is 0 on this image, which proves nothing. If a row stays "
        "crossed to the end, look at `activations/raster`."
    ),
    "activations/histogram/<layer>": Card(
        "The distribution of a layer's activations; written with `histograms=True`."
    ),
    "activations/layers": _aside(
        "The numbers of all layers, shown as a heat map in the Health tab."
    ),
    "dead_fraction/total": Card(
        "Share of dead units in all layers together. A unit is *dead* if it was 0 at every "
        "position of at least 160 samples in a row, over at least 3 snapshots."
    ),
    "dead_fraction/worst_layer": _aside(
        "Share of dead units in the layer that has the most of them."
    ),
    "newly_dead/total": _aside(
        "Share of units that are dead but fired before. Only these are a sign of trouble."
    ),
    "sparsity/total": _aside(
        "Share of activations that are exactly zero. It changes in healthy trainings, too, and is "
        "no sign of trouble by itself."
    ),
    "effective_area/total": _aside(
        "Share of a map's area that carries its activation. It changes in healthy trainings, too, "
        "and is no sign of trouble by itself."
    ),
    "dead_fraction/<layer>": Card(
        "Share of the layer's units that are dead. Written if you name layers, as in "
        '`ActivationMonitor(layers=["layer4.*"])`, for at most 20 of them.'
    ),
    "sparsity/<layer>": Card(
        "Share of the layer's activations that are exactly zero. Written if you name layers."
    ),
    "effective_area/<layer>": Card(
        "Share of a map's area that carries its activation, averaged over the layer's units. "
        "Written if you name layers."
    ),
    "dormant_fraction/<layer>": Card(
        "Share of units whose mean activation is at most a tenth of the layer's mean. Written if "
        "you name layers, also for GELU, SiLU and tanh, whose units never die. It is no sign of "
        "trouble by itself."
    ),
    "learning_rate/<group>": Card("The learning rate of a parameter group of the optimizer."),
    "update_ratio/<group>": _aside(
        "How far one step moves the weights of a parameter group, as a share of their norm."
    ),
    "filters/<layer>": Card(
        "The first layer's filters, and beside them, at the same places, what training added to "
        "each. First read the numbers above: they say how far the layer has moved."
    ),
    "filters/over_time/<layer>": _aside(
        "The filters at up to eight steps. Below each frame is what changed since the previous "
        "one, and by which share of their norm. Later frames are further apart."
    ),
    "filter_noise/<layer>": Card("How noisy the filters are; white noise has 1."),
    "filter_change/<layer>": _aside("How far the filters have moved from their initial weights."),
    "filter_inherited/<layer>": _aside(
        "The share of the filters' energy that still comes from the initial weights."
    ),
    "filter_learned_noise/<layer>": _aside("How noisy the part is that training added."),
    "filter_decay_left/<layer>": _aside(
        "The share of the initial weights that weight decay alone would have left: 1 without it."
    ),
    "filter_share/<which>/<layer>": _aside(
        "Share of the filters that cannot be told from white noise (`<which>` is noise_like), or "
        "that are dead, dominating or duplicated (odd)."
    ),
    "embedding/map/<layer>": Card(
        "Validation samples: those with similar features are near each other. Groups of one class "
        "are a good sign; the sizes of groups and the distances between them mean nothing. Rings: "
        "misclassified. Lines: from the previous place."
    ),
    "embedding/strip/<layer>": _aside(
        "The same map at up to eight steps, on one scale: when did the classes separate, and does "
        "the map still move?"
    ),
    "embedding/thumbnails/<layer>": Card(
        "The same samples as images, in their places and snapped to a grid: what does the network "
        "consider similar? The colours of the edges are the classes."
    ),
    "embedding/projector/<layer>": _aside(
        "The features for TensorBoard's Projector tab; written with `projector=True`."
    ),
    "class_agreement/<layer>": _aside(
        "How often a sample's nearest neighbours by features are of its class."
    ),
    "class_agreement/pixels": _aside(
        "How often a sample's nearest neighbours by raw pixels are of its class."
    ),
    "embedding/probes": Card(
        "Accuracy of a linear classifier on each layer's features, cross-validated: one line per "
        "step, depth to the right. If it falls after a layer, that layer loses information about "
        "the classes. If it is far above the network's own accuracy, the features tell the classes "
        "apart, but the last layer does not generalise."
    ),
    "probe_accuracy/<layer>": _aside(
        "The latest line of `embedding/probes`, as one number per layer."
    ),
    "trustworthiness/<layer>": _aside(
        "How far the map can be trusted: 1 if samples that are near on it have similar features."
    ),
    "displacement/<layer>": _aside("How much the map has moved since the previous one."),
    "effective_rank/<layer>": _aside("The number of directions in which the features vary."),
    "learning/loss": Card(
        "The loss, and the loss of the best constant output as a line. At that line, nothing has "
        "been learned."
    ),
    "learning/loss_of_constant": _aside(
        "The loss divided by that of the best constant output. Near 1, nothing has been learned."
    ),
    "learning/gradients": Card(
        "Norm of the gradient by weight and step, as a power of ten. If rows fade towards the top, "
        "the gradient vanishes. Grey: exactly 0."
    ),
    "learning/updates": _aside(
        "Norm of the update / norm of the weight, by weight and step, as a power of ten. Grey: "
        "exactly 0."
    ),
    "learning/layers": _aside(
        "Gradient and update / weight of every weight, shown as a heat map in the Health tab."
    ),
    "learning/outputs": _aside(
        "How much outputs differ from sample to sample. Near 0: they are the same for all samples."
    ),
    "learning/output_spread": _aside("The latest point of `learning/outputs`, as a number."),
    "learning/gradient_norm": Card("Norm of the gradient of all weights together."),
    "learning/update_ratio": Card(
        "Update / weight, the median over the weights. About 0.001 is usual; at 0.00001 the "
        "weights hardly move."
    ),
    "saliency/<method>": Card(
        "The pixels that the score of the label depends on, and that of the prediction if it "
        "differs. Brightness is in units of the map's own mean. Crossed: 0 everywhere. *On it*: "
        "the map over the image."
    ),
    "saliency/over_time/<method>": _aside(
        "The same for two images at up to eight steps: do the maps settle?"
    ),
    "saliency/effective_area/<method>": _aside(
        "How widely the saliency is spread: 1 if evenly, near 0 if on a few pixels."
    ),
    "saliency/similarity/<method>": _aside(
        "How similar the maps are to the previous ones. Near 1: they have settled."
    ),
    "saliency/in_mask/<method>": Card(
        "The share of the saliency inside the mask that `mask_fn` returns."
    ),
    "saliency/sanity_score/<method>": Card(
        "How similar the maps stay if the top layer's weights are replaced by random ones, with "
        "`sanity_check=True`. Near 1: the maps do not show what was learned."
    ),
    "saliency/completeness_error/integrated_gradients": _aside(
        "By which share the sum of a map misses the difference of the scores. Above 5 %: use more "
        "steps."
    ),
    "occlusion/views": Card(
        "Each image with three maps. They show, for each position of a square that hides a part of "
        "it, the activity of the strongest map, the probability of the true class and the most "
        "probable class."
    ),
    "occlusion/over_time": Card(
        "The probability maps of four images at up to eight steps. They begin even; where a dark "
        "place forms is what the network relies on."
    ),
    "occlusion/largest_fall": Card(
        "How far the probability falls when the most important place is hidden, on average. Near "
        "0: no single place matters, or nothing is recognised."
    ),
    "occlusion/largest_rise": Card(
        "How far the probability rises when the place is hidden that helps most, on average. A "
        "large rise: something in the images misleads the network."
    ),
    "occlusion/effective_area": Card(
        "How widely the falls are spread over the image: 1 if evenly, near 0 if in one place."
    ),
    "top_patches/<layer>": Card(
        "One row per unit: the nine patches that activate it most, with value and class. At the "
        "left: how many are of one class, and how often the unit fires."
    ),
    "class_purity/<layer>": Card(
        "The share of a unit's patches that are of one class. It usually rises with depth."
    ),
    "concentration/<layer>": Card(
        "How concentrated a unit's activation is in an image: 0 if spread evenly, nearly 1 if in "
        "one point."
    ),
    "activation_maximization/images": Card(
        "For each class, the image made to raise its score, beside the best real image. Hatched: "
        "silent, there is no gradient to follow."
    ),
    "activation_maximization/over_time": Card(
        "The made images at up to eight steps: noise at first, then features of the class."
    ),
    "activation_maximization/score": Card(
        "The mean score of the made images. It is not a measure of health."
    ),
    "activation_maximization/best_real_score": Card(
        "The mean score of the best real images. It is not a measure of health."
    ),
    "activation_maximization/num_silent": Card(
        "Number of targets that have no gradient to follow. It should be 0."
    ),
    "overhead/<monitor>_percent": _aside(
        "The cost of this monitor itself, in percent of the time so far."
    ),
}

_OTHER = Card("")


@cache
def _patterns() -> list[tuple[re.Pattern[str], Card]]:
    """The table's tags as patterns, the more exact ones first."""
    ordered = sorted(CARDS, key=lambda tag: len(re.sub(r"<\w+>", "", tag)), reverse=True)
    return [(pattern_of(tag), CARDS[tag]) for tag in ordered]


def pattern_of(tag: str) -> re.Pattern[str]:
    """Returns what tags such as ``sparsity/<layer>`` stand for."""
    return re.compile(".+".join(re.escape(part) for part in re.split(r"<\w+>", tag)))


def card_of(tag: str) -> Card:
    """Returns what is known of a tag without its prefix; a tag of the user's is simply shown."""
    exact = CARDS.get(tag)
    found = (card for pattern, card in _patterns() if pattern.fullmatch(tag))
    return exact or next(found, _OTHER)

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
        is_shown: False: TensorBoard draws no card, unless it is asked for; the tab Health and
            other loggers have it all the same.
    """

    how_to_read: str
    is_shown: bool = True


def _aside(how_to_read: str) -> Card:
    return Card(how_to_read, is_shown=False)


# At defaults two runs fill at most 30 cards with what is shown: a picture is a card a run. All that
# monitors say which a user adds by hand is shown: whoever adds them wants to see it.
CARDS: dict[str, Card] = {
    "alerts/active": Card("How many alerts are firing. 0 is healthy."),
    "alerts/text": Card("All alerts so far, with evidence and remedy."),
    "activations/unit_life": Card(
        "Share of dead units, one row per layer, the first layer on top, time to the right. Dark "
        "is healthy; a row that lights up is dying."
    ),
    "activations/raster": Card(
        "Every unit of the worst layer over time: alive, dead, revived, never fired. Dying reads "
        "as a stair."
    ),
    "activations/maps/<layer>": _aside(
        "What single units answer to one and the same image as training goes on. Mostly they "
        "begin dense and become sparser and more localised; first layers may just grow stronger. "
        "A cross is a 0 on this one image, which decides nothing: a row crossed to the end is a "
        "reason to look at `activations/raster`."
    ),
    "activations/histogram/<layer>": Card(
        "How the activations of a layer are spread; with `histograms=True`."
    ),
    "activations/layers": _aside(
        "The numbers of all layers, which the tab Health shows as a heat map."
    ),
    "dead_fraction/total": Card(
        "Share of dead units in all layers together. A unit is *dead* if it was 0 at every "
        "position of at least 160 samples in a row, over at least 3 snapshots."
    ),
    "dead_fraction/worst_layer": _aside("Share of dead units of the layer that has most of them."),
    "newly_dead/total": _aside("Share of dead units that have fired before: that is what counts."),
    "sparsity/total": _aside(
        "Share of exact zeros among the activations. It changes in health too, and is no alarm "
        "by itself."
    ),
    "effective_area/total": _aside(
        "Share of a map's area that carries its activation. It changes in health too, and is no "
        "alarm by itself."
    ),
    "dead_fraction/<layer>": Card(
        "Share of the layer's units that are dead; where you name layers, "
        '`ActivationMonitor(layers=["layer4.*"])`, for 20 layers at most.'
    ),
    "sparsity/<layer>": Card("Share of exact zeros among the layer's activations; as above."),
    "effective_area/<layer>": Card(
        "Share of a map's area that carries its activation, on average over the layer's units; "
        "as above."
    ),
    "dormant_fraction/<layer>": Card(
        "Share of units whose mean activation is at most a tenth of the layer's mean; as above. "
        "Also for GELU, SiLU and tanh, whose units never die. No alarm by itself."
    ),
    "learning_rate/<group>": Card("The learning rate of a group of the optimizer."),
    "update_ratio/<group>": _aside(
        "How far a step moves the weights of a group of the optimizer, as a share of their norm."
    ),
    "filters/<layer>": Card(
        "The first layer's filters, and at the same places what training added to each. Read "
        "the numbers above first: how far the layer moved."
    ),
    "filters/over_time/<layer>": _aside(
        "The filters at up to eight steps; below each frame what changed since the one before, "
        "and by how much of their norm. Later frames lie further apart."
    ),
    "filter_noise/<layer>": Card("How noisy the filters are; white noise has 1."),
    "filter_change/<layer>": _aside("How far the filters have moved from their initial weights."),
    "filter_inherited/<layer>": _aside(
        "Which share of the filters' energy is still that of the initial weights."
    ),
    "filter_learned_noise/<layer>": _aside("How noisy that part is which training added."),
    "filter_decay_left/<layer>": _aside(
        "What weight decay alone has left of the initial weights: 1 without weight decay."
    ),
    "filter_share/<which>/<layer>": _aside(
        "Share of the filters that no test tells from white noise (`<which>` is noise_like), and "
        "of those that are dead, dominating or double (odd)."
    ),
    "embedding/map/<layer>": Card(
        "Validation samples, near each other where their features are alike. Groups of one class "
        "are good; sizes of groups and distances between them mean nothing. Rings: "
        "misclassified. Lines: from the place before."
    ),
    "embedding/strip/<layer>": _aside(
        "The same map at up to eight steps, small, on one scale: when did classes part, does it "
        "still move?"
    ),
    "embedding/thumbnails/<layer>": Card(
        "The same samples as images, in their places and snapped to a grid: what does the network "
        "find alike? Edges have the colours of the classes."
    ),
    "embedding/projector/<layer>": _aside(
        "The features for the tab Projector, with `projector=True`."
    ),
    "class_agreement/<layer>": _aside(
        "How often a sample's nearest neighbours, by features, are of its class."
    ),
    "class_agreement/pixels": _aside(
        "How often a sample's nearest neighbours, by bare pixels, are of its class."
    ),
    "embedding/probes": Card(
        "Which share of these samples a linear classifier, fitted to the others, gets right from "
        "each layer; a line a step, depth to the right. Falls after a layer: that layer loses "
        "what the classes need. Far above the network's own accuracy: the features tell the "
        "classes apart, the last layer does not carry over."
    ),
    "probe_accuracy/<layer>": _aside("The latest line of `embedding/probes`, as a number a layer."),
    "trustworthiness/<layer>": _aside(
        "How far the map can be trusted: 1 where near samples of the map have near features."
    ),
    "displacement/<layer>": _aside("How much the map has moved since the one before."),
    "effective_rank/<layer>": _aside("How many directions the features use."),
    "learning/loss": Card(
        "The loss beside what the best constant output would reach. At that line nothing is "
        "learned."
    ),
    "learning/loss_of_constant": _aside(
        "What the best constant output would reach. At this loss nothing is learned."
    ),
    "learning/gradients": Card(
        "Gradient by weight and step, as a power of ten. Rows that fade towards the top: the "
        "gradient vanishes; grey: exactly 0."
    ),
    "learning/updates": _aside(
        "Update / weight by weight and step, as a power of ten; grey: exactly 0."
    ),
    "learning/layers": _aside(
        "Gradient and update / weight of every weight, which the tab Health shows as a heat map."
    ),
    "learning/outputs": _aside(
        "How much outputs differ from sample to sample. Near 0: the model says the same to all."
    ),
    "learning/output_spread": _aside("The latest point of `learning/outputs`, as a number."),
    "learning/gradient_norm": Card("Norm of the gradient of all weights together."),
    "learning/update_ratio": Card(
        "Update / weight, the median over the weights. About 0.001 is usual; at 0.00001 hardly "
        "anything moves."
    ),
    "saliency/<method>": Card(
        "Which pixels the score of the label hangs on, and that of the prediction where it is "
        "another. Bright: much, in units of the map's own mean. Crossed: nowhere. *On it*: the "
        "map over the image."
    ),
    "saliency/over_time/<method>": _aside(
        "The same for two images at up to eight steps: does attention settle?"
    ),
    "saliency/effective_area/<method>": _aside(
        "How widely saliency is spread: 1 evenly, near 0 in a few pixels."
    ),
    "saliency/similarity/<method>": _aside(
        "How like the maps are to those before: near 1, attention has settled."
    ),
    "saliency/in_mask/<method>": Card(
        "Which share of the saliency lies on the thing, where `mask_fn` says where that is."
    ),
    "saliency/sanity_score/<method>": Card(
        "How like the maps stay if the top layer's weights are random, with `sanity_check=True`. "
        "Near 1: they do not show what was learned."
    ),
    "saliency/completeness_error/integrated_gradients": _aside(
        "By what share these maps miss the score's difference. Above 5 %: take more steps."
    ),
    "occlusion/views": Card(
        "Each image with three maps, by where a square hides it: activity of the strongest map, "
        "probability of the true class, most probable class."
    ),
    "occlusion/over_time": Card(
        "The probability maps of four images at up to eight steps. Even at first; a dark place "
        "that forms is what the network rests on."
    ),
    "occlusion/largest_fall": Card(
        "How far the probability falls at the place that matters most, on average. Near 0: no "
        "single place matters, or nothing is recognised."
    ),
    "occlusion/largest_rise": Card(
        "How far the probability rises where hiding helps most, on average. A large rise: "
        "something in the images misleads."
    ),
    "occlusion/effective_area": Card(
        "Over how much of the image the falls are spread: 1 evenly, near 0 in one place."
    ),
    "top_patches/<layer>": Card(
        "A row a unit: the nine patches that excite it most, with value and class; at the left "
        "how many are of one class, and how often the unit fires."
    ),
    "class_purity/<layer>": Card(
        "The share of a unit's patches that are of one class. Mostly rises with depth."
    ),
    "concentration/<layer>": Card(
        "How much of a unit's activation lies in one place of an image: 0 spread evenly, nearly 1 "
        "in one point."
    ),
    "activation_maximization/images": Card(
        "For each class what was made to raise its score, beside the best real image. Hatched: "
        "silent."
    ),
    "activation_maximization/over_time": Card(
        "What was made, at up to eight steps: noise at first, then something of the class."
    ),
    "activation_maximization/score": Card(
        "The score that was reached, on average. No measure of health."
    ),
    "activation_maximization/best_real_score": Card(
        "The score of the best real images, on average. No measure of health."
    ),
    "activation_maximization/num_silent": Card(
        "How many targets have no gradient to follow. Should be 0."
    ),
    "overhead/<monitor>_percent": _aside(
        "What each monitor itself has cost, in percent of the time so far."
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

"""Saliency beside captum on resnet18 at 224 x 224, and what a snapshot of the monitor costs.

    python -m benchmarks.saliency      about eight minutes

Times are of one thread and of the processor, so that other processes count for little; each
side takes its turn. Both sides compute the same maps, captum as it comes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import process_time

import torch
from captum import attr
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.nets import BENCHMARKS, Benchmark
from benchmarks.observed import snapshot_cost
from benchmarks.ratio import paired_ratio
from benchmarks.steps import one_thread
from vis_callbacks import SaliencyMonitor
from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.score_functions import class_score, layer_gradient
from vis_callbacks.monitors.saliency.methods import METHODS
from vis_callbacks.monitors.saliency.science import attribute, upsampled

NUM_IMAGES = 4
CAM_LAYER = "layer4.1.relu-1"  # the output of layer4
SEVERAL_PASSES = ("smoothgrad", "integrated_gradients")
NUM_SAMPLES = 25  # of SmoothGrad
TARGETS = torch.arange(NUM_IMAGES)
LARGE = Benchmark("resnet18 at 224", resnet18, (3, 224, 224), 8, 1000)

Attribute = Callable[[nn.Module, Tensor], Tensor]


def of_captum(method: str, layer: str = "layer4", targets: Tensor = TARGETS) -> Attribute:
    """Returns captum's way to the same maps; Grad-CAM looks at a module's output."""

    def smoothgrad(model: nn.Module, x: Tensor) -> Tensor:
        # The largest range of the images, as captum takes one number for all.
        flat = x.detach().flatten(1)
        spread = 0.15 * float((flat.amax(1) - flat.amin(1)).max())
        tunnel = attr.NoiseTunnel(attr.Saliency(model))
        return tunnel.attribute(x, target=targets, nt_samples=NUM_SAMPLES, stdevs=spread, abs=False)

    def grad_cam(model: nn.Module, x: Tensor) -> Tensor:
        cam = attr.LayerGradCam(model, model.get_submodule(layer))
        small = cam.attribute(x, targets, relu_attributions=True)
        return attr.LayerAttribution.interpolate(small, x.shape[2:], "bilinear")

    def guided_grad_cam(model: nn.Module, x: Tensor) -> Tensor:
        guided = attr.GuidedGradCam(model, model.get_submodule(layer))
        return guided.attribute(x, target=targets, interpolate_mode="bilinear")

    ways: Mapping[str, Attribute] = {
        "gradient": lambda m, x: attr.Saliency(m).attribute(x, targets, abs=False),
        "guided_backprop": lambda m, x: attr.GuidedBackprop(m).attribute(x, targets),
        "deconvnet": lambda m, x: attr.Deconvolution(m).attribute(x, targets),
        "input_x_gradient": lambda m, x: attr.InputXGradient(m).attribute(x, targets),
        "smoothgrad": smoothgrad,
        "integrated_gradients": lambda m, x: attr.IntegratedGradients(m).attribute(
            x, target=targets
        ),
        "grad_cam": grad_cam,
        "guided_grad_cam": guided_grad_cam,
    }
    return ways[method]


def of_ours(method: str, layer: str = CAM_LAYER, targets: Tensor = TARGETS) -> Attribute:
    """Returns our way, with all that keeps an extra pass from leaving a trace."""

    def attribution(model: nn.Module, x: Tensor) -> Tensor:
        with isolated(model) as forward:
            score = class_score(forward, targets)
            at_layer = layer_gradient(forward, score, layer)
            return attribute(method, score, x, layer_gradient=at_layer).values

    return attribution


def network() -> nn.Module:
    """Returns the network; its ReLUs do not overwrite, which captum's hooks could not bear."""
    torch.manual_seed(0)
    model = resnet18().eval()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


def pictures() -> Tensor:
    """Returns noise; what an image shows does not change what it costs."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(NUM_IMAGES, 3, 224, 224, generator=generator)


def time_row(method: str, num_pairs: int) -> str:
    """Returns the seconds of both sides and their ratio."""
    model = network()
    sides = {"ours": of_ours(method), "captum": of_captum(method)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(num_pairs + 1):
        for name, way in sides.items():
            x = pictures().requires_grad_(name == "captum")
            started = process_time()
            way(model, x)
            seconds[name].append(process_time() - started)
    ours, captum = (values[1:] for values in seconds.values())  # the first finds caches cold
    ratio = paired_ratio(ours, captum)
    limit = 1.0 if method in SEVERAL_PASSES else 1.1
    verdict = "kept" if ratio.median <= limit else "EXCEEDED"
    each = sorted(ours)[len(ours) // 2] / NUM_IMAGES
    return f"{1e3 * each:7.0f} ms an image   {ratio!s:<24} <= {limit}  {verdict}"


def peak_megabytes(side: str, method: str) -> float:
    """Returns what a process of its own needs at most beyond a plain forward pass."""
    command = [sys.executable, "-m", "benchmarks.saliency", "--peak", side, method]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(found.stdout)


def measured_peak(side: str, method: str) -> float:
    """Returns the growth of this process in megabytes; asked of a fresh one, on Linux."""
    model, x = network(), pictures()
    with torch.no_grad():
        model(x)
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    way = of_ours(method) if side == "ours" else of_captum(method)
    way(model, x.requires_grad_(side == "captum"))
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(name: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(name))


def difference(method: str) -> float:
    """Returns how far the two maps lie apart, as a share of the largest value."""
    model, x = network(), pictures()
    ours = of_ours(method)(model, x)
    captum = of_captum(method)(model, pictures().requires_grad_()).detach()
    ours = ours if ours.shape == captum.shape else upsampled(ours[:, 0], x)
    return float((ours - captum).abs().max() / captum.abs().max())


def rows(num_pairs: int) -> Iterator[str]:
    """Yields the table, line by line as it is measured."""
    for method in METHODS:
        pairs = num_pairs if method not in SEVERAL_PASSES else max(3, num_pairs // 4)
        yield f"{method:<22} {time_row(method, pairs)}"
    for method in ("gradient", *SEVERAL_PASSES, "guided_grad_cam"):
        ours, captum = (peak_megabytes(side, method) for side in ("ours", "captum"))
        yield f"{method:<22} peak {ours:7.0f} MB, captum {captum:7.0f} MB"
    for method in METHODS:
        if method != "smoothgrad":  # whose noise differs
            yield f"{method:<22} differs from captum by {difference(method):.1e}"
    cnn = next(benchmark for benchmark in BENCHMARKS if benchmark.name == "cnn")
    for benchmark in (cnn, LARGE):
        cost = snapshot_cost(benchmark, SaliencyMonitor, num_repeats=3)
        yield f"{benchmark.name:<22} a snapshot at defaults: {cost}"


def main() -> None:
    """Prints the table, or one peak for a process that asked for it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="captum")
    with one_thread():
        if options.peak:
            print(measured_peak(*options.peak))
            return
        for row in rows(options.pairs):
            print(row, flush=True)


if __name__ == "__main__":
    main()

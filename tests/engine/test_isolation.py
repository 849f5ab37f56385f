from __future__ import annotations

import functools
import random
import signal
import sys
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.identity import assert_identical, fingerprint
from torch import nn
from torch.nn.utils import parametrizations, prune

from vis_callbacks.engine import isolation
from vis_callbacks.engine.isolation import (
    ExtraPassError,
    call_resolved,
    eager_stance,
    forked_rng,
    isolated,
    kept_gradients,
    kept_modes,
    muted_logging,
    resolve_forward,
    silenced_hooks,
    swapped_buffers,
    uncached_autocast,
    unwrapped,
)
from vis_callbacks.engine.state_watch import StateWatch


class Net(nn.Module):
    """Batch norm, dropout, a buffer held twice, and a forward that leaves traces."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.frozen_bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 3)
        self.register_buffer("shared", torch.zeros(1))
        self.bn.register_buffer("shared", self.shared)
        self.calls = 0
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen.append(len(x))
        self.shared += 1
        x = self.drop(self.frozen_bn(self.bn(self.conv(x))).relu())
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    net.frozen_bn.eval()
    net.fc.bias.requires_grad_(False)
    net(torch.randn(8, 1, 6, 6)).sum().backward()
    return net


X = torch.linspace(-1, 1, 4 * 36).reshape(4, 1, 6, 6)


def disturb_modes(net):
    net.fc.train()
    net.train()


def disturb_rng(net):
    torch.rand(3)
    np.random.random(3)
    random.random()


def disturb_buffers(net):
    net.bn.running_mean.add_(1)
    net.bn.running_var = torch.ones(4) * 5
    net.shared += 1
    net.register_buffer("new", torch.zeros(2))
    running_mean = net.frozen_bn.running_mean
    del net.frozen_bn.running_mean  # it comes back as the last one
    net.frozen_bn.register_buffer("running_mean", running_mean)


def disturb_requires_grad(net):
    for parameter in net.parameters():
        parameter.requires_grad_(not parameter.requires_grad)


def disturb_grads(net):
    with torch.enable_grad():
        net.fc.weight.sum().backward()
    net.conv.bias.grad = torch.ones(4)
    net.fc.bias.grad = None


def disturb_attributes(net):
    net.calls += 1
    net.seen.append(5)
    net.conv.weight_seen = net.conv.weight * 2
    del net.drop.p


def disturb_hooks(net):
    net.conv.register_forward_hook(lambda *args: None, with_kwargs=True, always_call=True)
    net.fc.register_forward_pre_hook(lambda *args: None)
    net.register_full_backward_hook(lambda *args: None)


def disturb_autocast(net):
    torch.set_autocast_cache_enabled(False)


def kept_state(net):
    return StateWatch().keeping(net, "a test")


MANAGERS = {
    "modes": (kept_modes, disturb_modes),
    "rng": (lambda net: forked_rng(), disturb_rng),
    "buffers": (swapped_buffers, disturb_buffers),
    "requires_grad": (kept_gradients, disturb_requires_grad),
    "grads": (kept_gradients, disturb_grads),
    "attributes": (kept_state, disturb_attributes),
    "hooks": (silenced_hooks, disturb_hooks),
    "autocast cache": (lambda net: uncached_autocast(), disturb_autocast),
}
EVERY_MANAGER = pytest.mark.parametrize(
    ("manager", "disturb"), MANAGERS.values(), ids=MANAGERS.keys()
)


def everything(net):
    """What the fingerprint cannot see beside what it can: objects, plain attributes."""
    objects = {
        name: id(value)
        for module_name, module in net.named_modules()
        for dictionary in (vars(module), module._buffers, module._parameters)
        for name, value in ((f"{module_name}.{k}", v) for k, v in dictionary.items())
    }
    orders = [list(module._buffers) for module in net.modules()]
    grads = [id(parameter.grad) for parameter in net.parameters()]
    versions = [tensor._version for tensor in net.buffers()]
    seen = list(getattr(net, "seen", ()))
    return {**fingerprint(net), "rest": (objects, orders, grads, versions, seen)}


@pytest.mark.parametrize("disturb", [d for _, d in MANAGERS.values()], ids=MANAGERS.keys())
def test_without_its_manager_each_disturbance_shows(net, disturb):
    before = everything(net)
    disturb(net)
    assert before != everything(net)
    torch.set_autocast_cache_enabled(True)


@EVERY_MANAGER
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_what_is_disturbed_inside_is_as_before_outside(net, manager, disturb, error):
    before = everything(net)
    with pytest.raises(error, match="of the pass") if error else nullcontext():  # noqa: SIM117
        with manager(net):
            disturb(net)
            if error:
                raise error("of the pass")
    assert_identical(before, everything(net))


@EVERY_MANAGER
def test_leaving_twice_is_harmless(net, manager, disturb):
    context = manager(net)
    context.__enter__()
    disturb(net)
    context.__exit__(None, None, None)
    disturb(net)
    disturbed = everything(net)
    context.__exit__(None, None, None)
    assert_identical(disturbed, everything(net))
    torch.set_autocast_cache_enabled(True)


# -- failures while entering


def test_a_mode_that_cannot_be_set_leaves_the_others_as_they_were(net):
    class Stubborn(nn.Identity):
        def __setattr__(self, name, value):
            if name == "training" and not value:
                raise RuntimeError("stays in training")
            super().__setattr__(name, value)

    net.last = Stubborn()
    before = fingerprint(net)
    with pytest.raises(RuntimeError, match="stays in training"), kept_modes(net):
        pass
    assert_identical(before, fingerprint(net))


def test_a_buffer_that_cannot_be_cloned_leaves_the_others_in_place(net, monkeypatch):
    clone, clones = isolation.detached_clone, []

    def failing(buffer):
        if len(clones) == 3:
            raise torch.OutOfMemoryError("no room")
        clones.append(clone(buffer))
        return clones[-1]

    monkeypatch.setattr(isolation, "detached_clone", failing)
    before = everything(net)
    with pytest.raises(torch.OutOfMemoryError, match="no room"), swapped_buffers(net):
        pass
    assert_identical(before, everything(net))


def test_hooks_that_cannot_be_sorted_stay_where_they_are(net, monkeypatch):
    net.fc.register_forward_hook(lambda *args: None)

    def failing(hook):
        raise RuntimeError("odd hook")

    monkeypatch.setattr(isolation, "_is_of_model", failing)
    before = everything(net)
    with pytest.raises(RuntimeError, match="odd hook"), silenced_hooks(net):
        pass
    assert_identical(before, everything(net))


@pytest.mark.parametrize(
    "name",
    [
        "eager_stance",
        "uncached_autocast",
        "forked_rng",
        "kept_modes",
        "swapped_buffers",
        "kept_gradients",
        "silenced_hooks",
        "muted_logging",
    ],
)
def test_a_failure_half_way_into_isolation_undoes_the_first_half(net, monkeypatch, name):
    def failing(*args):
        raise RuntimeError("half-way")
        yield

    monkeypatch.setattr(isolation, name, isolation.contextmanager(failing))
    before = everything(net)
    with (
        torch.inference_mode(),
        pytest.raises(RuntimeError, match="half-way"),
        isolated(net, grad=False),
    ):
        pass
    assert_identical(before, everything(net))


# -- single things


def test_modes_are_set_without_the_models_own_train(net):
    def refuse(mode=True):
        raise AssertionError("train() was called")

    net.train = refuse
    with kept_modes(net):
        assert not any(module.training for module in net.modules())


def test_a_buffer_held_twice_is_one_clone_in_both_places(net):
    with swapped_buffers(net):
        assert net.shared is net.bn.shared
    assert net.shared is net.bn.shared


def test_a_backward_of_the_users_survives_a_pass_between(net):
    frozen = nn.BatchNorm2d(1).eval()  # its backward needs the buffers as they were saved
    x = torch.randn(4, 1, 3, 3, requires_grad=True)
    loss = frozen(x).square().sum()
    with swapped_buffers(frozen):
        frozen.running_mean.add_(1)
        frozen.running_var.mul_(2)
    loss.backward()
    assert x.grad is not None


def test_a_buffer_of_a_lazy_module_is_left_alone():
    lazy = nn.LazyBatchNorm1d()
    with swapped_buffers(lazy):
        assert nn.parameter.is_lazy(lazy.running_mean)


def test_a_backward_inside_cannot_add_to_the_gradients(net):
    grad, net.conv.weight.grad = net.fc.weight.grad, None
    before = grad.clone()
    with kept_gradients(net):
        (net.fc.weight.sum() + net.conv.weight.sum()).backward()
    assert net.fc.weight.grad is grad
    assert torch.equal(grad, before)
    assert net.conv.weight.grad is None


def test_user_hooks_do_not_see_the_pass(net):
    seen = []
    for module in (net, net.conv):
        module.register_forward_pre_hook(lambda *args: seen.append("pre"))
        module.register_forward_hook(lambda *args: seen.append("forward"), always_call=True)
        module.register_full_backward_pre_hook(lambda *args: seen.append("backward pre"))
        module.register_full_backward_hook(lambda *args: seen.append("backward"))
    before = everything(net)
    with isolated(net) as forward:
        x = X.clone().requires_grad_()
        torch.autograd.grad(forward(x).sum(), x)
    assert seen == []
    assert_identical(before, everything(net))
    net(X.clone().requires_grad_()).sum().backward()
    assert seen.count("pre") == 2  # they are back, and work


def test_hooks_on_all_modules_do_not_see_the_pass(net):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda *args: seen.append(1))
    try:
        with isolated(net) as forward:
            forward(X)
        assert seen == []
        net(X)
        assert seen
    finally:
        handle.remove()


def test_a_hook_attached_inside_is_gone_outside_even_if_it_is_left(net):
    with isolated(net) as forward:
        seen = []
        handle = net.fc.register_forward_hook(lambda *args: seen.append(1), always_call=True)
        forward(X)
        assert seen == [1]
    handle.remove()
    assert not net.fc._forward_hooks
    assert not net.fc._forward_hooks_always_called


def old_weight_norm(layer):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


MODEL_HOOKS = {
    "weight norm": old_weight_norm,
    "spectral norm": nn.utils.spectral_norm,
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5) and layer,
    "parametrised weight norm": parametrizations.weight_norm,
}


@pytest.mark.parametrize("wrap", MODEL_HOOKS.values(), ids=MODEL_HOOKS.keys())
@pytest.mark.parametrize("training", [False, True])
def test_hooks_that_are_part_of_the_model_run_and_leave_no_trace(wrap, training):
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    wrap(layer)
    x = torch.randn(3, 4)
    for parameter in layer.parameters():  # as an update would: the weight must be worked out anew
        parameter.data.mul_(1.5)
    before = everything(layer)
    with isolated(layer, training=training) as forward:
        scores = forward(x)
    assert_identical(before, everything(layer))
    assert torch.equal(scores, layer.train(training)(x))


def test_a_pruning_method_of_the_users_runs(net):
    class Half(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t, default_mask):
            mask = default_mask.clone()
            mask.view(-1)[::2] = 0
            return mask

    Half.apply(net.fc, "weight")
    with torch.no_grad():
        net.fc.weight_orig.add_(1)
    with isolated(net) as forward:
        forward(X)
        assert (net.fc.weight.view(-1)[::2] == 0).all()
        assert (net.fc.weight.view(-1)[1::2] == net.fc.weight_orig.view(-1)[1::2]).all()


def test_a_partial_of_a_users_function_is_the_users(net):
    seen = []
    net.fc.register_forward_hook(functools.partial(lambda into, *args: into.append(1), seen))
    with isolated(net) as forward:
        forward(X)
    assert seen == []


def test_a_partial_of_a_hook_that_shards_the_model_runs(net):
    def unshard(into, *args):
        into.append(1)

    unshard.__module__ = "torch.distributed.fsdp._fully_shard"
    seen = []
    net.fc.register_forward_pre_hook(functools.partial(unshard, seen))
    with isolated(net) as forward:
        forward(X)
    assert seen == [1]


class Logging(nn.Module):
    """Like a LightningModule: it can log."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.logged: list[str] = []

    def log(self, name, value):
        self.logged.append(name)

    def log_dict(self, values):
        self.logged.extend(values)

    def forward(self, x):
        self.log("a", 1)
        self.log_dict({"b": 2})
        return self.fc(x)


def test_a_module_does_not_log_in_an_extra_pass():
    module = Logging()
    with isolated(module) as forward:
        forward(torch.ones(1, 3))
    with muted_logging(module):
        module(torch.ones(1, 3))
    assert module.logged == []
    module(torch.ones(1, 3))
    assert module.logged == ["a", "b"]


def test_a_log_method_set_on_the_module_itself_comes_back():
    module = Logging()
    module.log = own = lambda name, value: None
    with muted_logging(module):
        assert module.log is not own
    assert module.log is own
    assert "log_dict" not in vars(module)


def test_the_random_streams_of_all_devices_in_use_are_kept(monkeypatch):
    states = {"cuda:0": 6, "cuda:1": 7}
    fake = SimpleNamespace(
        get_rng_state=lambda device: states[str(device)],
        set_rng_state=lambda state, device: states.update({str(device): state}),
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 2,
    )
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch, "get_device_module", lambda device: fake)
    with forked_rng():
        states |= {"cuda:0": 5, "cuda:1": 8}
    assert states == {"cuda:0": 6, "cuda:1": 7}
    fake.is_initialized = lambda: False
    with forked_rng():  # it must not begin to use a device
        states |= {"cuda:1": 9}
    assert states["cuda:1"] == 9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_random_stream_of_a_gpu_is_kept():
    device = torch.device("cuda", 0)
    before = torch.cuda.get_rng_state(device)
    with forked_rng():
        torch.rand(3, device=device)
    assert torch.equal(torch.cuda.get_rng_state(device), before)


def test_a_cast_weight_is_not_shared_with_the_users_pass():
    layer = nn.Linear(4, 4)
    x = torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with isolated(layer, grad=False) as forward:
            forward(x)
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert torch.is_autocast_cache_enabled()


# -- isolated


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_a_pass_leaves_no_trace(net, training, grad):
    before = everything(net)
    with isolated(net, training=training, grad=grad) as forward:
        assert forward(X).shape == (4, 3)
        disturb_rng(net)
        assert torch.is_grad_enabled() is grad
    assert_identical(before, everything(net))


def test_training_leaves_each_module_in_the_mode_it_has(net):
    with isolated(net, training=True):
        assert net.training
        assert net.bn.training
        assert not net.frozen_bn.training


def test_evaluation_is_the_default(net):
    expected = Net()
    expected.load_state_dict(net.state_dict())
    expected = expected.eval()(X)
    with isolated(net) as forward:
        assert torch.equal(forward(X), expected)


def test_gradients_of_the_inputs_are_found_with_frozen_parameters(net):
    net.requires_grad_(False)
    x = X.clone().requires_grad_()
    with isolated(net) as forward:
        (gradient,) = torch.autograd.grad(forward(x)[:, 0].sum(), x)
    assert gradient.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_gradients_are_found_inside_inference_mode(net):
    with torch.inference_mode():
        x = X.clone()
        net(x)  # the running statistics are updated inside it
        with isolated(net) as forward:
            x = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(forward(x)[:, 0].sum(), x)
        assert torch.is_inference_mode_enabled()
    assert gradient.abs().sum() > 0


def test_inputs_of_inference_mode_are_copied_wherever_they_are(net):
    with torch.inference_mode():
        x = X.clone()
    seen = []

    def forward_fn(module, inputs):
        seen.append(inputs)
        return module(inputs["x"][0])

    with isolated(net, forward=forward_fn) as forward:
        forward.run({"x": (x, [x]), "name": "a"})
    assert not seen[0]["x"][0].is_inference()
    assert not seen[0]["x"][1][0].is_inference()


def test_inputs_are_passed_as_they_are(net):
    seen = []
    with isolated(net, forward=lambda module, inputs: seen.append(inputs)) as forward:
        forward.run(X)
    assert seen[0] is X


def test_the_forward_function_and_the_context_are_used_at_each_pass(net):
    entered = []

    class Context(nullcontext):
        def __enter__(self):
            entered.append(1)

    def forward_fn(module, inputs):
        assert module is net
        assert len(entered) > 0
        return {"logits": module(inputs)}

    with isolated(net, forward=forward_fn, forward_context=Context) as forward:
        forward(X)
        forward(X)
    assert len(entered) == 2


def test_scores_of_autocast_are_float32(net):
    with isolated(
        net, forward_context=lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    ) as forward:
        assert forward.run(X).dtype == torch.bfloat16
        assert forward(X).dtype == torch.float32


def test_chunks_give_the_scores_of_the_whole(net):
    with isolated(net) as forward:
        whole, parts = forward(X), forward(X, chunk=3)
    assert net.seen == [8]
    torch.testing.assert_close(parts, whole)  # another batch size may take another kernel


def test_a_chunk_of_nothing_is_refused(net):
    with isolated(net) as forward, pytest.raises(ValueError, match="chunk=0 is too small"):
        forward(X, chunk=0)


def test_output_without_scores_is_refused_by_name_and_still_can_be_run(net):
    with isolated(net, forward=lambda module, inputs: None) as forward:
        assert forward.run(X) is None
        with pytest.raises(TypeError, match=r"returned NoneType.*forward_fn="):
            forward(X)


def test_the_pass_is_alive_only_inside(net):
    with isolated(net) as forward:
        pass
    with pytest.raises(RuntimeError, match="works only inside"):
        forward(X)


def test_an_error_of_the_model_arrives_and_nothing_is_left(net):
    error = RuntimeError("of the model")

    def failing(module, inputs):
        module(inputs)
        disturb_rng(module)
        raise error

    before = everything(net)
    with pytest.raises(RuntimeError, match="of the model") as raised:  # noqa: SIM117
        with isolated(net, forward=failing) as forward:
            forward(X)
    assert raised.value is error
    assert_identical(before, everything(net))


def test_ctrl_c_inside_the_pass_leaves_nothing(net):
    def interrupted(module, inputs):
        module(inputs)
        signal.raise_signal(signal.SIGINT)

    before = everything(net)
    # A process that was started in the background ignores the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), isolated(net, forward=interrupted) as forward:
            forward(X)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert_identical(before, everything(net))


def test_leaving_isolation_twice_is_harmless(net):
    context = isolated(net)
    context.__enter__()
    context.__exit__(None, None, None)
    net.train()
    net.calls = 99
    context.__exit__(None, None, None)
    assert net.training
    assert net.calls == 99
    assert torch.is_grad_enabled()


def test_a_scripted_module_leaves_no_trace():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    before = fingerprint(scripted)
    with isolated(scripted, training=True) as forward:
        forward(X)
    assert_identical(before, fingerprint(scripted))


def test_training_with_passes_between_is_the_same_bit_for_bit():
    def train(with_passes: bool) -> dict[str, str]:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        net = Net()
        net.frozen_bn.eval()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for step in range(6):
            optimizer.zero_grad()
            loss = net(torch.randn(8, 1, 6, 6)).square().sum()
            if with_passes:  # where the user's graph is alive
                with isolated(net, training=step % 2 == 0) as forward:
                    x = X.clone().requires_grad_()
                    torch.autograd.grad(forward(x).sum(), x)
            loss.backward()
            optimizer.step()
            if with_passes:
                with isolated(net, grad=False) as forward:
                    forward(X)
        return fingerprint(net, optimizers=[optimizer])

    assert_identical(train(False), train(False))
    assert_identical(train(False), train(True))


# -- compiled models


@pytest.fixture
def counters():
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()
    counters.clear()


def function_inside():
    @torch.compile(backend="eager")
    def act(x):
        return x.relu()

    class Inside(nn.Sequential):
        def forward(self, x):
            return act(super().forward(x))

    return Inside(nn.Linear(3, 3))


def compiled_child():
    return nn.Sequential(torch.compile(nn.Linear(3, 3), backend="eager"), nn.ReLU())


def compiled_in_place():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    net.compile(backend="eager")
    return net


COMPILED = {
    "the whole": lambda: torch.compile(
        nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)), backend="eager"
    ),
    "a child": compiled_child,
    "in place": compiled_in_place,
    "a function": function_inside,
}


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the compiler's own
@pytest.mark.parametrize("build", COMPILED.values(), ids=COMPILED.keys())
def test_a_compiled_model_is_run_as_written_and_not_compiled_again(build, counters):
    torch.manual_seed(0)
    net = build()
    x = torch.randn(4, 3)
    net(x)
    graphs = dict(counters["frames"]), dict(counters["stats"])
    assert counters["frames"]["total"] > 0
    seen = []
    for training in (False, True):
        with isolated(net, training=training, grad=training) as forward:
            linear = next(m for m in net.modules() if isinstance(m, nn.Linear))
            handle = linear.register_forward_hook(lambda *args: seen.append(1))
            forward(x)
            handle.remove()
    assert seen == [1, 1]  # hooks fire: it ran in eager mode
    net(x)
    assert (dict(counters["frames"]), dict(counters["stats"])) == graphs


def test_the_stance_comes_back(counters):
    def calls_compiled() -> int:
        runs = []

        def backend(module, inputs):
            runs.append(1)
            return module.forward

        torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2))
        return len(runs)

    with eager_stance():
        assert calls_compiled() == 0
    assert calls_compiled() == 1


def test_the_compiler_is_not_imported_for_a_plain_model(net, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    with isolated(net) as forward:
        forward(X)
    assert "torch._dynamo" not in sys.modules


# -- what is called


def test_a_wrapper_is_taken_off(net):
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self._orig_mod = inner

    assert unwrapped(Wrapped(nn.DataParallel(net))) is net
    assert unwrapped(net) is net


class LightningModule(nn.Module):
    """Stands for Lightning's: a forward that only raises."""

    def forward(self, *args):
        raise NotImplementedError


LightningModule.__module__ = "pytorch_lightning.core.module"


def test_a_module_without_a_forward_stands_for_its_only_network():
    module = LightningModule()
    module.loss, module.net = nn.CrossEntropyLoss(), nn.Linear(3, 2)
    assert resolve_forward(module) is module.net
    assert call_resolved(module, torch.ones(1, 3)).shape == (1, 2)


def test_a_module_with_a_forward_is_called_itself(net):
    class Classifier(LightningModule):
        def forward(self, x):
            return x

    patched = LightningModule()
    patched.forward = lambda x: x
    for module in (net, Classifier(), patched):
        assert resolve_forward(module) is module


def test_lightnings_own_module_without_a_forward_is_recognised():
    from pytorch_lightning import LightningModule as Real

    module = Real()
    module.net = nn.Linear(2, 2)
    assert resolve_forward(module) is module.net
    with isolated(module) as forward:
        assert forward(torch.ones(1, 2)).shape == (1, 2)


@pytest.mark.parametrize(("names", "listed"), [(["net", "critic"], "net, critic"), ([], "none")])
def test_no_network_or_several_need_a_forward_function(names, listed):
    module = LightningModule()
    for name in names:
        module.add_module(name, nn.Linear(2, 2))
    with pytest.raises(TypeError, match=rf"are: {listed}\. Write forward_fn="):
        resolve_forward(module)


class OfTwo(nn.Module):
    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return x / lengths


def test_a_pass_that_fails_for_a_known_reason_says_what_to_write():
    words = r"missing 1 required .* 'lengths'\. .*forward_fn=lambda module, inputs: "
    with isolated(OfTwo()) as forward, pytest.raises(ExtraPassError, match=words) as caught:
        forward(X)
    assert isinstance(caught.value.__cause__, TypeError)


def test_any_other_error_of_the_users_forward_arrives_as_it_is():
    error = KeyError("theirs")

    def fail(*args):
        raise error

    with isolated(OfTwo(), forward=fail) as forward, pytest.raises(KeyError) as caught:
        forward(X)
    assert caught.value is error

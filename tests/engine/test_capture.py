from __future__ import annotations

import copy
import os
import pickle
import threading

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
import torchvision.models
from tests.identity import num_hooks, num_hooks_on
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from vis_callbacks.engine.capture import Capture, CapturedActivation, Plan
from vis_callbacks.engine.function_mode import remove_inert_modes
from vis_callbacks.engine.layers import ModelNames
from vis_callbacks.engine.planned_capture import PlannedCapture
from vis_callbacks.engine.probe import WeightInfo

# Nonlinearities in evaluation mode, and in training mode where auxiliary heads add some.
COUNTS = {
    "resnet18": (17, 17),
    "googlenet": (57, 61),
    "inception_v3": (94, 96),
    "densenet121": (121, 121),
    "vit_b_16": (12, 12),
    "mobilenet_v3_small": (33, 33),
    "efficientnet_b0": (49, 49),
    "swin_t": (12, 12),
    "convnext_tiny": (18, 18),
}
GATES = {"mobilenet_v3_small": 9, "efficientnet_b0": 16}
INPUT_SIZES = {"inception_v3": 96, "vit_b_16": 32}
OPTIONS = {
    "vit_b_16": {"image_size": 32},
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}


def see(model: nn.Module, *inputs: Tensor, follow=(), **options) -> list[CapturedActivation]:
    seen: list[CapturedActivation] = []
    with Capture(model, seen.append, **options) as capture:
        capture.start_batch(follow)
        model(*inputs)
    return seen


def names(seen: list[CapturedActivation]) -> list[str]:
    return [item.name for item in seen]


def made(name: str) -> nn.Module:
    """Returns a torchvision model of zeros: to initialise its weights would take seconds."""
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None, **OPTIONS.get(name, {}))
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        nn.init.zeros_(tensor)
    return model


@pytest.mark.parametrize("name", COUNTS)
def test_every_nonlinearity_of_a_torchvision_model_is_seen_once(name):
    model = made(name)
    for is_training, count in enumerate(COUNTS[name]):
        model.train(bool(is_training))
        size = 299 if name == "inception_v3" and is_training else INPUT_SIZES.get(name, 64)
        with torch.no_grad():
            seen = see(model, torch.zeros(2, 3, size, size))
        counted = [item for item in seen if not item.is_gate]
        assert len(counted) == count
        assert len(seen) - len(counted) == GATES.get(name, 0)
        assert len(set(names(seen))) == len(seen)


def test_the_sigmoids_of_an_mlp_are_no_gates():
    seen = see(nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), torch.zeros(2, 4))
    assert [(item.kind, item.is_gate) for item in seen] == [("sigmoid", False)]


class Forms(nn.Module):
    """One ReLU in every form that a model may write it in."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.module = nn.ReLU()
        self.in_place = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.module(self.fc(x))
        x = self.module(self.fc(x))
        x = F.relu(self.fc(x))
        x = torch.relu(self.fc(x))
        x = self.fc(x).relu()
        x = self.in_place(self.fc(x))
        x = F.relu_(self.fc(x))
        x = torch.clamp(self.fc(x), min=0)
        return self.fc(x).clamp_min(0)


def test_every_form_of_a_relu_is_seen_and_named():
    seen = see(Forms(), torch.randn(2, 4))
    assert names(seen) == [
        "module",
        "module-1",
        "Forms/relu",
        "Forms/relu-1",
        "Forms/relu-2",
        "in_place",
        "Forms/relu-3",
        "Forms/relu-4",
        "Forms/relu-5",
    ]
    assert {item.kind for item in seen} == {"relu"}


def test_a_clamp_that_is_no_relu_is_not_seen():
    class Clamps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(0, 1) + x.clamp(max=0) + x.clamp(min=1)

    assert see(Clamps(), torch.randn(2, 4)) == []


def test_an_in_place_relu_is_seen_after_it_has_run_and_without_its_input():
    values = []

    def sink(seen: CapturedActivation) -> None:
        values.append((seen.values.clone(), seen.inputs))

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    with Capture(model, sink):
        output = model(torch.randn(2, 4))
    assert torch.equal(values[0][0], output)
    assert values[0][1] is None


def test_a_relu_called_net_2_is_named_after_the_module_and_not_after_its_owner():
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    assert names(see(Holder(), torch.randn(2, 4))) == ["net.2"]


def test_names_begin_anew_with_each_forward_pass():
    seen: list[CapturedActivation] = []
    model = Forms()
    with Capture(model, seen.append):
        model(torch.randn(2, 4))
        model(torch.randn(2, 4))
    assert names(seen)[:9] == names(seen)[9:]


def test_a_reused_relu_called_outside_of_any_forward_counts_over_the_step():
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.relu = nn.Linear(4, 8), nn.Linear(8, 3), nn.ReLU()

        def training_step(self, x: Tensor) -> Tensor:
            return self.relu(self.fc2(self.relu(self.fc1(x))))

    model, seen = Loop(), []
    with Capture(model, seen.append) as capture:
        model.training_step(torch.randn(2, 4))
        capture.start_batch()
        model.training_step(torch.randn(2, 4))
    assert names(seen) == ["relu", "relu-1", "relu", "relu-1"]


def test_the_call_of_training_step_by_a_wrapper_is_no_forward_pass():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:  # what DDP's redirection makes of training_step
            return self.net(x) + self.net(x)

    assert names(see(Wrapped(), torch.randn(2, 4), wrapped_root=True)) == ["net.1", "net.1"]
    assert names(see(Wrapped(), torch.randn(2, 4))) == ["net.1", "net.1-1"]


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpointed_block_is_seen_once_though_it_runs_twice(use_reentrant):
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.block, x, use_reentrant=use_reentrant)

    model, seen = Checkpointed(), []
    with Capture(model, seen.append):
        model(torch.randn(2, 4, requires_grad=True)).sum().backward()
    assert names(seen) == ["block.1"]


def test_modules_that_are_no_nonlinearity_are_read_where_they_are_watched():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    seen = see(model, torch.randn(5, 4), watched={"input": ["2"], "output": ["0"]})
    assert [(s.name, s.site, tuple(s.values.shape)) for s in seen] == [
        ("0", "output", (5, 3)),
        ("1", "output", (5, 3)),
        ("2", "input", (5, 3)),
    ]


def test_an_activation_knows_the_weight_that_feeds_it_over_normalisation_and_dropout():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(), nn.ReLU(), nn.Flatten(),
        nn.Linear(6, 5), nn.Tanh(),
    )  # fmt: skip
    seen = see(model, torch.randn(2, 3, 3, 3))
    assert [s.weighted.weight_name for s in seen] == ["0.weight", "5.weight"]
    assert [s.unit_axis for s in seen] == [1, -1]


def test_an_activation_of_concatenated_layers_has_no_weight():
    class Concatenated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(torch.cat([self.a(x), self.b(x)], 1))

    assert see(Concatenated(), torch.randn(2, 4))[0].weighted is None


def test_channels_last_tokens_after_a_linear_layer_have_their_units_last():
    model = nn.Sequential(nn.Linear(8, 5), nn.GELU())
    (seen,) = see(model, torch.randn(2, 6, 6, 8))
    assert seen.unit_axis == -1


def test_the_first_weight_that_touches_the_input_is_found_by_following_it():
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)
            self.stem = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.head(F.relu(self.stem((x - 1).flatten(1) * 2))))

    x = torch.randn(2, 4)
    seen = see(Late(), x, follow=[x])
    assert [s.weighted.weight_name for s in seen] == ["stem.weight", "head.weight"]
    assert [s.weighted.touches_input for s in seen] == [True, False]


def weights_of(model: nn.Module, x: Tensor) -> dict[str, WeightInfo]:
    weights: dict[str, WeightInfo] = {}
    with torch.no_grad():
        see(model, x, follow=[x], weights=weights)
    return weights


def test_each_weight_is_told_of_with_what_it_was_where_it_touches_the_input():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 5, 2), nn.ReLU())
    told = weights_of(model, torch.randn(2, 4, 8, 8))
    assert [(i.weight_name, i.kind, i.groups) for i in told.values()] == [
        ("0.weight", "conv2d", 2),
        ("1.weight", "conv_transpose2d", 1),
    ]
    assert told["1"].initial is None
    before = told["0"].initial.clone()
    with torch.no_grad():
        model[0].weight.add_(1)
    assert torch.equal(told["0"].initial, before)


def test_the_initial_values_of_a_computed_weight_are_those_it_computed():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU())
    (info,) = weights_of(model, torch.randn(2, 4)).values()
    assert info.weight_name == "0.weight"
    assert torch.equal(info.initial, model[0].weight.detach())


def test_a_skip_connection_over_the_first_layer_does_not_make_the_second_a_first():
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)
            self.register_buffer("shift", torch.ones(1, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = x - self.shift
            return self.second(x + self.first(x))

    told = weights_of(Skip(), torch.randn(2, 4))
    assert [info.touches_input for info in told.values()] == [True, False]


def test_both_branches_of_an_input_touch_it():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(2, 3), nn.Linear(2, 3)
            self.scale = nn.Parameter(torch.ones(1, 2))

        def forward(self, x: Tensor) -> Tensor:
            left, right = x.chunk(2, 1)
            return self.left(left) + self.right(right * self.scale)

    told = weights_of(Branches(), torch.randn(2, 4))
    assert [info.touches_input for info in told.values()] == [True, True]


def test_behind_a_recurrent_layer_nothing_touches_the_input():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    (info,) = weights_of(Recurrent(), torch.randn(2, 5, 4)).values()
    assert not info.touches_input


def test_nothing_is_left_after_a_normal_exit_and_leaving_twice_is_harmless():
    model = Forms()
    capture = Capture(model, lambda seen: None)
    with capture, capture:
        assert num_hooks() == 3
        assert num_hooks_on(model) == 0
    capture.close()
    assert num_hooks() == 0
    assert _get_current_function_mode_stack() == []


def test_nothing_is_left_after_a_forward_that_raises_and_names_stay_right():
    class Raises(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            self.fails = True

        def forward(self, x: Tensor) -> Tensor:
            x = self.net(x)
            if self.fails:
                raise RuntimeError("the user's own")
            return F.relu(x)

    model, seen = Raises(), []
    with Capture(model, seen.append):
        with pytest.raises(RuntimeError, match="the user's own"):
            model(torch.randn(2, 4))
        model.fails = False
        model(torch.randn(2, 4))
    assert names(seen) == ["net.1", "net.1", "Raises/relu"]
    assert num_hooks() == 0


def test_a_failure_while_attaching_leaves_nothing(monkeypatch):
    model = Forms()
    monkeypatch.setattr(
        "vis_callbacks.engine.function_mode.FunctionMode.__enter__",
        lambda self: (_ for _ in ()).throw(RuntimeError("no mode")),
    )
    with pytest.raises(RuntimeError, match="no mode"):
        Capture(model, lambda seen: None).__enter__()
    assert num_hooks() == 0


def test_a_mode_that_the_user_opened_in_between_is_not_popped():
    class Users(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    model, users, seen = Forms(), Users(), []
    capture = Capture(model, seen.append)
    capture.__enter__()
    users.__enter__()
    capture.close()
    model(torch.randn(2, 4))
    assert seen == []
    assert _get_current_function_mode_stack()[-1] is users
    users.__exit__(None, None, None)
    remove_inert_modes()
    assert _get_current_function_mode_stack() == []


def test_the_users_hooks_stay_where_they_were():
    model = Forms()
    called = []
    model.fc.register_forward_hook(lambda *args: called.append("first"))
    before = [dict(m._forward_hooks) for m in model.modules()]
    see(model, torch.randn(2, 4))
    assert called == ["first"] * 9
    assert [dict(m._forward_hooks) for m in model.modules()] == before


def test_what_the_callback_itself_calls_is_no_activation_of_the_model():
    model, seen = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), []
    with Capture(
        model, lambda s: seen.append((s.name, torch.relu(s.values))), watched={"output": ["0"]}
    ):
        model(torch.randn(2, 4))
    assert [name for name, _ in seen] == ["0", "1"]


def test_a_paused_capture_sees_no_functional_calls_until_the_next_batch():
    model, seen = Forms(), []
    with Capture(model, seen.append) as capture:
        capture.pause()
        assert _get_current_function_mode_stack() == []
        model(torch.randn(2, 4))
        assert seen == []
        capture.start_batch()
        model(torch.randn(2, 4))
        assert len(seen) == 9
        capture.pause()
    capture.start_batch()
    assert _get_current_function_mode_stack() == []


def test_modules_that_call_nothing_that_is_looked_at_are_let_alone_unless_they_are_watched():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    assert ModelNames(model).to_hook() == {id(model), id(model[0]), id(model[2])}
    seen = see(model, torch.randn(2, 3, 8, 8), watched={"output": ["1"]})
    assert names(seen) == ["1", "2"]


def test_a_module_of_the_users_own_is_hooked_though_it_is_derived_from_a_leaf_type():
    class Surprising(nn.Identity):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x)

    seen = see(nn.Sequential(nn.Linear(4, 4), Surprising()), torch.randn(2, 4))
    assert names(seen) == ["1/relu"]


def test_captures_that_share_what_is_known_of_a_model_see_the_same():
    model, x = Forms(), torch.randn(2, 4)
    known = ModelNames(model)
    first, second = see(model, x, names=known), see(model, x, names=known)
    assert names(first) == names(second) == names(see(model, x))
    assert [s.weighted for s in first] == [s.weighted for s in second]
    assert {s.weighted.weight_name for s in first} == {"fc.weight"}


def test_a_failing_sink_is_contained_where_that_is_asked_for():
    def sink(seen: CapturedActivation) -> None:
        raise RuntimeError("ours")

    model, failures = Forms(), []
    with Capture(model, sink, fail=failures.append):
        assert model(torch.randn(2, 4)).shape == (2, 4)
    assert {str(failure) for failure in failures} == {"ours"}


def test_other_threads_are_not_seen():
    model, seen = Forms(), []
    other = Forms()
    with Capture(model, seen.append):
        thread = threading.Thread(target=lambda: other(torch.randn(2, 4)))
        thread.start()
        thread.join()
    assert seen == []


# -- nothing of ours is copied, pickled, compiled, forked or fused


def test_a_model_that_is_being_read_is_copied_and_pickled_as_it_is():
    model = Forms()
    with Capture(model, lambda seen: None):
        copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert num_hooks_on(copied) == 0
    assert torch.equal(copied(torch.ones(2, 4)), model(torch.ones(2, 4)))


class Counting(nn.Module):
    """Keeps a metric, as torchmetrics has them: hash and ``==`` change with the state."""

    class Metric(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.total = nn.ReLU(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.total += 1
            return self.relu(x)

        def __hash__(self) -> int:
            return hash(self.total)

        def __eq__(self, other: object) -> bool:
            return True  # as an expression that is built of both is

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.metric, self.act = nn.Linear(4, 4), self.Metric(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(self.metric(x)))


def test_modules_are_told_apart_by_identity_whatever_their_hash_and_equality():
    model = Counting()
    for _ in range(2):
        assert names(see(model, torch.randn(2, 4))) == ["metric.relu", "act"]


@pytest.mark.parametrize("attribute", ["__hash__", "__eq__", "__len__", "__bool__", "__getattr__"])
def test_no_method_of_the_users_that_raises_reaches_the_run(attribute):
    def refuse(self, *args):
        if args and args[0] in ("_compiled_call_impl", "_backward_hooks"):
            raise AttributeError(args[0])  # nn.Module asks for some of its own
        raise RuntimeError("do not touch")

    model, failures = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), []
    known = ModelNames(model)
    model[1].__class__ = type("Refusing", (nn.ReLU,), {attribute: refuse})
    with Capture(model, lambda seen: None, names=known, fail=failures.append):
        assert model[1](model[0](torch.randn(2, 4))).shape == (2, 4)
    assert failures == []


def test_a_module_that_joins_in_the_midst_of_a_step_is_its_owners():
    model = Forms()
    with Capture(model, (seen := []).append) as capture:
        capture.start_batch()
        joined = nn.Sequential(nn.ReLU(), nn.ReLU())
        model.joined = joined
        joined(torch.randn(2, 4))
    assert [s.name for s in seen] == ["Forms/relu", "Forms/relu-1"]


def test_the_compiler_makes_one_graph_of_a_function_that_is_first_called_under_a_capture():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    @torch.compile(backend="eager")
    def compiled(x: Tensor) -> Tensor:
        return torch.relu(x) - torch.relu(-x)

    model, seen, x = Forms(), [], torch.randn(2, 4)
    capture = Capture(model, seen.append)
    with capture:
        model(x)
        num_seen = len(seen)
        torch.testing.assert_close(compiled(x), x)
        assert capture.was_interrupted
        assert num_hooks() == 1  # the compiler's own list is shortened when it is done with it
        model(torch.randn(2, 4))
    assert len(seen) == num_seen > 0
    compiled(x)
    assert torch._dynamo.utils.counters["frames"]["total"] == 1
    assert num_hooks() == 0
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def test_a_forked_process_inherits_nothing_that_is_open():
    with Capture(Forms(), lambda seen: None):
        child = os.fork()
        if child == 0:
            os._exit(len(_get_current_function_mode_stack()) + num_hooks())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(_get_current_function_mode_stack()) == 1


def test_a_forked_process_inherits_no_planned_capture_either():
    capture = PlannedCapture(Forms(), Plan({}, frozenset()), lambda seen: None, print)
    with capture:
        child = os.fork()
        if child == 0:
            os._exit(num_hooks())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert num_hooks() == 3


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("is_padded", [False, True])
def test_the_fused_path_of_a_frozen_encoder_is_left_as_it_is(is_padded):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=is_padded).eval()
    model = nn.Sequential(encoder.requires_grad_(False), nn.ReLU())
    x = torch.randn(3, 5, 8)
    mask = torch.tensor([[False] * 3 + [True] * 2] * 3) if is_padded else None
    with torch.no_grad():
        plain = encoder(x, src_key_padding_mask=mask)
        with Capture(model, (seen := []).append, is_users_pass=True):
            watched = encoder(x, src_key_padding_mask=mask)
            model[1](x)
    assert torch.equal(plain, watched)
    assert names(seen) == ["1"]


def test_an_encoder_that_learns_is_read():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    assert names(see(model, torch.randn(3, 5, 8))) == ["layers.0/relu"]
    assert names(see(model.eval(), torch.randn(3, 5, 8))) == ["layers.0/relu"]


# -- what is no layer, and what is no tensor to be read


def test_what_no_modules_forward_calls_is_outside():
    model = Forms()
    with Capture(model, (seen := []).append):
        F.relu(model(torch.randn(2, 4)) - 1)
    assert [s.is_outside for s in seen] == [False] * (len(seen) - 1) + [True]


class Subclass(Tensor):
    """As MONAI's MetaTensor: keeps its class through functions."""


def fake(x: Tensor) -> Tensor:
    return FakeTensorMode().from_tensor(x)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    "make",
    [fake, lambda x: x.to("meta"), lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)],
    ids=["fake", "meta", "quantised"],
)
def test_a_tensor_that_only_stands_for_numbers_is_passed_over(make):
    with Capture(nn.ReLU(), (seen := []).append):
        x = make(torch.randn(2, 4))
        torch.relu(x)
    assert seen == []


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_tensors_inside_transforms_and_traces_are_passed_over():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with Capture(model, (seen := []).append):
        torch.func.vmap(model)(torch.randn(2, 4))
        torch.jit.trace(model, torch.randn(2, 4), check_trace=False)
    assert seen == []


def test_what_a_subclass_adds_is_taken_off():
    (seen,) = see(nn.ReLU(), torch.randn(2, 4).as_subclass(Subclass))
    assert type(seen.values) is type(seen.inputs) is Tensor
    assert type(seen.attached) is Subclass

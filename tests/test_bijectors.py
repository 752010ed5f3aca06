"""Every bijector keeps its promises; see `testing.assert_valid_bijector`."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from testing import assert_valid_bijector, float64_init, random_images, randomize
from tfp_vaeflow import bijectors as tfvb
from tfp_vaeflow import compute
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.config import CouplingConfig, FlowConfig, StepConfig
from tfp_vaeflow.networks import Initializer, Network

IMAGE = (2, 4, 3)


def coupling_config(**changes) -> CouplingConfig:
    return CouplingConfig(**{"hidden": 5, "conditioning_dim": 2, **changes})


def step_config(**changes) -> StepConfig:
    return StepConfig(coupling_config(**changes))


def dense_step_config() -> StepConfig:
    return StepConfig(CouplingConfig(hidden=5, dense=True))


def test_actnorm_on_images():
    assert_valid_bijector(tfvb.ActNorm(3, float64_init()), IMAGE)


def test_actnorm_on_vectors():
    assert_valid_bijector(tfvb.ActNorm(3, float64_init(), event_ndims=1), (3,))


@pytest.mark.parametrize("kind, heads", [("dense", 1), ("lu", 1), ("split", 2)])
@pytest.mark.parametrize("event", [(2, 2, 4), (4,)])
def test_conv1x1(kind, heads, event):
    layer = tfvb.Conv1x1(4, float64_init(), kind, heads, event_ndims=len(event))
    assert_valid_bijector(layer, event)


@pytest.mark.parametrize("kind", ["dense", "lu"])
def test_conv1x1_starts_orthogonal(kind):
    matrix = tfvb.Conv1x1(6, float64_init(), kind).matrix()
    np.testing.assert_allclose(matrix @ tf.transpose(matrix), np.eye(6), atol=1e-10)
    assert np.abs(matrix - np.eye(6)).max() > 0.1


def test_conv1x1_kinds_have_the_parameters_they_promise():
    sizes = {
        kind: sum(
            v.shape.num_elements()
            for v in tfvb.Conv1x1(6, Initializer(), kind, heads).trainable_variables
        )
        for kind, heads in [("dense", 1), ("lu", 1), ("split", 3)]
    }
    assert sizes == {"dense": 36, "lu": 36, "split": 4}


@pytest.mark.parametrize(
    "pattern, order, factor, channels",
    [
        *itertools.product(["continuous", "skip"], ["up", "down"], [2], [3, 4]),
        ("continuous", "up", 4, 8),
        ("continuous", "down", 3, 5),
    ],
)
def test_coupling(pattern, order, factor, channels):
    split = tfvb.ChannelSplit(pattern, order, factor)
    layer = tfvb.make_coupling(channels, coupling_config(), split, float64_init())
    assert_valid_bijector(layer, (2, 2, channels), conditioning_shape=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"transform": "additive"},
        {"alpha": 0.5},
        {"activation": "relu"},
        {"activation": "leaky_relu"},
        {"conditioning_dim": 0},
        {"conditioning": "global_attn"},
        {"norm": "group", "num_groups": 1},
        {"norm": "instance"},
        {"norm": "batch"},
        {"transform": "relu"},
        {"transform": "nlsq"},
        {"transform": "symm_elu"},
    ],
)
def test_coupling_variants(changes):
    config = coupling_config(**changes)
    layer = tfvb.make_coupling(4, config, tfvb.ChannelSplit(), float64_init())
    assert_valid_bijector(layer, (2, 2, 4), conditioning_shape=config.conditioning_dim)


def test_a_map_as_conditioning():
    config = coupling_config(conditioning="local_linear")
    layer = tfvb.make_coupling(4, config, tfvb.ChannelSplit(), float64_init())
    assert_valid_bijector(layer, (2, 2, 4), conditioning_shape=(2, 2, 2))


class _Waves(Network):
    """Adds a wave to a linear map of x and the conditioning."""

    conditioning_ndims = 1

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.is_conditioned = True
        self.map = tf.Variable(tf.ones([in_channels, out_channels], tf.float64) / 9)
        self.of_z = tf.Variable(tf.ones([2, out_channels], tf.float64) / 7)

    def __call__(self, x, conditioning=None):
        h = tf.sin(tf.tensordot(x, self.map, 1))
        return h + (conditioning @ self.of_z)[:, tf.newaxis, tf.newaxis]


@pytest.mark.parametrize("given", ["network", "keras", "function"])
def test_a_coupling_with_a_network_of_ones_own(given):
    transform, split = tfvb.Affine(0.5), tfvb.ChannelSplit("skip", "down")
    make_network, z = {
        "network": (_Waves, 2),
        "keras": (
            lambda _, outputs: keras.layers.Conv2D(
                outputs, 3, padding="same", dtype="float64"
            ),
            0,
        ),
        "function": (
            lambda _, outputs: (
                lambda x, z: tf.concat([x] * 2, -1) * z[:, None, None, :1]
            ),
            2,
        ),
    }[given]
    layer = tfvb.Coupling(4, split, transform, make_network, dtype=tf.float64)
    x = tf.constant(np.random.default_rng(0).standard_normal((8, 2, 2, 4)))
    conditioning = tf.ones([8, 2], tf.float64) if z else None
    # It has no output that could be set to zero: initialisation leaves it as it is.
    np.testing.assert_allclose(
        layer.initialize(x, conditioning), layer.inverse_and_log_det(x, conditioning)[0]
    )
    assert_valid_bijector(layer, (2, 2, 4), z)
    assert len(layer.trainable_variables) == (0 if given == "function" else 2)


class _Layer(keras.layers.Layer):
    """Keras layers in a Keras layer."""

    def __init__(self, _, outputs):
        super().__init__()
        self.of_x = keras.layers.Conv2D(outputs, 1)
        self.of_z = keras.layers.Dense(outputs)

    def call(self, x, z):
        return tf.tanh(self.of_x(x) + self.of_z(z)[:, None, None])


def _called(inputs, outputs):
    layer = _Layer(inputs, outputs)
    layer(tf.zeros([1, 2, 2, inputs]), tf.zeros([1, 2]))
    return layer


def _two_inputs(inputs, outputs):
    x, z = keras.Input([None, None, inputs]), keras.Input([2])
    y = keras.layers.Conv2D(outputs, 1)(x) * keras.layers.Dense(1)(z)[:, None, None]
    return keras.Model([x, z], y)


class _Holder(Network):
    """A network with a Keras layer in a list."""

    is_conditioned = True

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = [_called(inputs, outputs)]

    def __call__(self, x, conditioning=None):
        return self.layers[0](x, conditioning)


@pytest.mark.parametrize("make_network", [_called, _two_inputs, _Holder])
def test_all_weights_of_keras_layers_are_trained(make_network):
    layer = tfvb.Coupling(4, tfvb.ChannelSplit(), tfvb.Affine(0.5), make_network)
    x, z = tf.random.stateless_normal([3, 2, 2, 4], [0, 0]), tf.ones([3, 2])
    flow = tfvb.Sequential([layer])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(flow.inverse(x, conditioning=z) ** 2)
    gradients = tape.gradient(loss, flow.trainable_variables)
    assert len(gradients) == 4 and all(np.abs(g).max() > 0 for g in gradients)


class _LayerWithBuild(_Layer):
    """Its `build` takes two shapes, as Keras asks of layers with two inputs."""

    def build(self, x_shape, z_shape):
        self.of_x.build(x_shape)
        self.of_z.build(z_shape)


@pytest.mark.parametrize("make_network", [_Layer, _LayerWithBuild])
def test_keras_layers_that_are_not_built_are_refused(make_network):
    """Their weights would be missing from the flow's variables."""
    with pytest.raises(UserError, match="layer.* is not built, .*call the network"):
        tfvb.Coupling(4, tfvb.ChannelSplit(), tfvb.Affine(), make_network)


def test_a_coupling_names_wrong_channels():
    split = tfvb.ChannelSplit()
    layer = tfvb.Coupling(4, split, tfvb.Affine(), lambda *_: lambda x: x)
    with pytest.raises(ValueError, match="coupling: x has 5 channels; expected 4"):
        layer.inverse(tf.zeros([1, 2, 2, 5]))
    with pytest.raises(ValueError, match="output of the network has 2 .* expected 4"):
        layer.inverse(tf.zeros([1, 2, 2, 4]))


@pytest.mark.parametrize("recompute", [False, True])
def test_networks_of_ones_own_share_no_graph(recompute):
    """Nothing says that two of them compute the same."""
    factors = iter((1.0, 2.0))

    def scaled(_, outputs):
        factor = next(factors)
        return keras.layers.Lambda(lambda x: tf.concat([x] * 2, -1) * factor)

    def convolution(_, outputs):
        return keras.layers.Conv2D(outputs, 3, padding="same")

    split = tfvb.ChannelSplit()
    layers = [
        tfvb.Coupling(4, split, tfvb.Affine(), make)
        for make in (scaled, scaled, convolution, convolution)
    ]
    flow = tfvb.Sequential(layers)
    x = tf.constant(np.random.default_rng(0).standard_normal((2, 2, 2, 4)), tf.float32)
    expected = flow.inverse_and_log_det(x)[0]
    mode = {"graphs": compute.SharedGraphs(), "recompute": recompute}

    @tf.function
    def run():
        with compute.using(**mode), tf.GradientTape() as tape:
            v, _ = flow.inverse_and_log_det(x)
            loss = tf.reduce_sum(v**2)
        return v, tape.gradient(loss, flow.trainable_variables)

    v, gradients = run()
    np.testing.assert_allclose(v, expected, rtol=1e-5, atol=1e-5)
    assert len(gradients) == 4 and all(np.abs(g).max() > 0 for g in gradients)


def test_initialisation_runs_no_network(monkeypatch):
    """Their outputs are set to zero, whatever the data is."""

    def fail(*_):
        raise AssertionError("a network runs")

    step = tfvb.MaCowStep(4, step_config(), float64_init())
    x = np.random.default_rng(0).standard_normal((8, 2, 2, 4))
    for name in ("linear", "conv2d_valid"):
        monkeypatch.setattr(compute, name, fail)
    v = step.initialize(x, np.ones((8, 2)))
    np.testing.assert_allclose(tf.math.reduce_std(v, [0, 1, 2]), 1, atol=0.1)


def test_one_conditioning_for_all_examples():
    layer = tfvb.make_coupling(
        4, coupling_config(), tfvb.ChannelSplit(), float64_init()
    )
    randomize(layer)
    x = np.random.default_rng(0).standard_normal((3, 2, 2, 4))
    expected = layer.inverse(x, conditioning=np.ones((3, 2)))
    for z in (np.ones((1, 2)), np.ones(2), [1.0, 1.0]):
        np.testing.assert_allclose(
            layer.inverse(tf.identity(x), conditioning=z), expected
        )


def test_coupling_on_vectors():
    config = CouplingConfig(hidden=5, dense=True)
    layer = tfvb.make_coupling(5, config, tfvb.ChannelSplit(), float64_init())
    assert_valid_bijector(layer, (5,))


@pytest.mark.parametrize(
    "pattern, order, condition, transformed",
    [
        ("continuous", "up", [0, 1, 2], [3, 4]),
        ("continuous", "down", [2, 3, 4], [0, 1]),
        ("skip", "up", [0, 1, 2], [3, 4]),  # odd: as continuous
        ("skip", "up", [0, 2], [1, 3]),
        ("skip", "down", [1, 3], [0, 2]),
    ],
)
def test_which_channels_a_split_takes(pattern, order, condition, transformed):
    channels = len(condition) + len(transformed)
    split = tfvb.ChannelSplit(pattern, order)
    x = tf.reshape(tf.range(channels), [1, channels])
    a, b = split.split(x)
    assert (a.numpy().ravel().tolist(), b.numpy().ravel().tolist()) == (
        condition,
        transformed,
    )
    np.testing.assert_array_equal(split.join(a, b), x)


def test_affine_coupling_at_a_known_point():
    """scale = 1 + tanh(s / 2), shift: the last layer's bias, kernel zero."""
    config = CouplingConfig(hidden=3)
    layer = tfvb.make_coupling(2, config, tfvb.ChannelSplit(), Initializer())
    layer.network.last.gain.assign([0.0, 0.0])
    layer.network.last.bias.assign([0.7, 0.4])  # shift, s
    x = np.array([[[[1.0, 3.0]]]], np.float32)
    v, log_det = layer.inverse_and_log_det(x)
    scale = 1 + np.tanh(0.2)
    np.testing.assert_allclose(v, [[[[1.0, 3 * scale + 0.7]]]], rtol=1e-6)
    np.testing.assert_allclose(log_det, [np.log(scale)], rtol=1e-5)


def test_affine_log_scale_survives_extreme_inputs():
    config = CouplingConfig(hidden=3)
    layer = tfvb.make_coupling(2, config, tfvb.ChannelSplit(), Initializer())
    layer.network.last.bias.assign([0.0, -60.0])
    layer.network.last.gain.assign([0.0, 0.0])
    x = np.array([[[[1.0, 3.0]]]], np.float32)
    v, log_det = layer.inverse_and_log_det(x)
    back, _ = layer.forward_and_log_det(v)
    np.testing.assert_allclose(back, x, rtol=1e-5)
    np.testing.assert_allclose(log_det, [np.log(2) - 60], rtol=1e-6)


@pytest.mark.parametrize("name", ["actnorm", "conv1x1", "coupling", "masked_conv"])
def test_log_det_map_of_a_layer(name):
    """Its share at a position: what becomes of the volume there, all else fixed."""
    init = float64_init()
    layer = {
        "actnorm": lambda: tfvb.ActNorm(4, init),
        "conv1x1": lambda: tfvb.Conv1x1(4, init),
        "coupling": lambda: tfvb.make_coupling(
            4, coupling_config(), tfvb.ChannelSplit(), init
        ),
        "masked_conv": lambda: tfvb.make_masked_conv(
            4, coupling_config(), "B", (2, 3), init
        ),
    }[name]()
    value = tf.constant(np.random.default_rng(0).standard_normal((2, 3, 2, 4)))
    z = tf.ones([2, 2], tf.float64)
    for run in (layer.forward_and_log_det_map, layer.inverse_and_log_det_map):
        with tf.GradientTape() as tape:
            tape.watch(value)
            result, log_det_map = run(value, z)
        jacobian = tape.batch_jacobian(result, value)
        here = tf.einsum("bijcijd->bijcd", jacobian)
        expected = np.linalg.slogdet(here.numpy())[1]
        shares = np.broadcast_to(log_det_map, expected.shape)
        np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-8)


def test_log_det_map_of_a_flow():
    """Adds up to the log-det; a squeezed position's share goes to its four pixels."""
    coupling = tfvb.make_coupling(
        12, coupling_config(), tfvb.ChannelSplit(), float64_init()
    )
    layer = tfvb.Sequential([tfvb.ActNorm(3, float64_init()), tfvb.Squeezed(coupling)])
    x = tf.constant(np.random.default_rng(0).standard_normal((2, 4, 6, 3)))
    z = tf.ones([2, 2], tf.float64)
    _, log_det_map = layer.inverse_and_log_det_map(x, z)
    np.testing.assert_allclose(
        tf.reduce_sum(log_det_map, [1, 2]), layer.inverse_and_log_det(x, z)[1]
    )
    corners = log_det_map[:, ::2, ::2]
    _, coarse = coupling.inverse_and_log_det_map(
        tf.nn.space_to_depth(layer.members[0].inverse(x), 2), z
    )
    own = tf.reduce_sum(layer.members[0].log_scale)
    np.testing.assert_allclose(corners, coarse / 4 + own)
    for row, column in itertools.product(range(2), repeat=2):
        np.testing.assert_array_equal(log_det_map[:, row::2, column::2], corners)


def test_glow_step():
    step = tfvb.GlowStep(4, step_config(), float64_init())
    assert_valid_bijector(step, (2, 2, 4), conditioning_shape=2)


def test_glow_step_on_vectors():
    assert_valid_bijector(tfvb.GlowStep(5, dense_step_config(), float64_init()), (5,))


def test_split_prior():
    layer = tfvb.SplitPrior(8, step_config(), 4, 2, float64_init())
    assert_valid_bijector(layer, (2, 2, 8), conditioning_shape=2)


def test_squeezed():
    inner = tfvb.ActNorm(4, float64_init())
    assert_valid_bijector(tfvb.Squeezed(inner), (4, 2, 1))


def test_sequential():
    members = [tfvb.ActNorm(3, float64_init(1)), tfvb.Conv1x1(3, float64_init(2))]
    layer = tfvb.Sequential(members, dtype=tf.float64)
    assert_valid_bijector(layer, IMAGE)
    x = tf.ones((1, *IMAGE), tf.float64)
    expected = members[1].inverse(members[0].inverse(x))
    np.testing.assert_allclose(layer.inverse(tf.identity(x)), expected)


def multiscale(num_steps, factors, channels=1, conditioning_dim=2, **changes):
    config = FlowConfig(
        num_steps=num_steps, hidden=[4] * len(num_steps), factors=factors, **changes
    )
    return tfvb.MultiScaleFlow(config, channels, conditioning_dim, float64_init())


@pytest.mark.parametrize(
    "num_steps, factors, event",
    [
        ([1], [], (2, 2, 3)),
        ([0, 1], [], (4, 4, 1)),
        ([0, [1], 1], [4], (4, 4, 1)),
        ([0, [1, 1], 1], [3], (4, 4, 1)),
        pytest.param([0, [1, 1, 1], 1], [4], (4, 4, 1), marks=pytest.mark.slow),
        pytest.param([1, [1], [1], 1], [2, 4], (8, 8, 2), marks=pytest.mark.slow),
    ],
)
def test_multiscale(num_steps, factors, event):
    flow = multiscale(num_steps, factors, event[-1])
    assert_valid_bijector(flow, event, 2, scale=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"conv1x1": "lu"},
        {"conv1x1": "split", "heads": [1, 2, 3]},
        {"transform": "additive"},
        {"prior_transform": "additive"},
    ],
)
def test_multiscale_variants(changes):
    flow = multiscale([0, [1], 1], [2] if "heads" not in changes else [4], 1, **changes)
    assert_valid_bijector(flow, (4, 4, 1), 2, scale=0.1)


def keep_only_the_centre(kernel):
    """Makes a 3x3 convolution one of 1x1."""
    centre = np.zeros((3, 3, 1, 1))
    centre[1, 1] = 1
    kernel.assign(kernel * centre)


def test_a_map_is_squeezed_along():
    """Each position hears of its own features, not of those far away."""
    flow = multiscale([0, 1], [], 1, conditioning="local_linear")
    assert_valid_bijector(flow, (4, 4, 1), conditioning_shape=(4, 4, 2), scale=0.1)
    flow = multiscale([0, 1], [], 1, conditioning="local_linear")
    randomize(flow)
    # Only the convolution of the map itself looks at neighbours, then.
    for module in flow.levels[1][0].steps[0].members:
        if isinstance(module, tfvb.Coupling):
            keep_only_the_centre(module.network.first.kernel)
            keep_only_the_centre(module.network.last.direction)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((1, 8, 8, 1)))
    features = rng.standard_normal((1, 8, 8, 2))
    moved = features.copy()
    moved[0, 1, 1] += 1
    difference = flow.inverse(x, conditioning=features) - flow.inverse(
        tf.identity(x), conditioning=moved
    )
    changed = np.abs(difference[0, :, :, 0]) > 1e-12
    # (1, 1) lies in the squeezed position (0, 0), whose neighbours end at pixel 3.
    assert changed[:4, :4].any() and not changed[4:].any() and not changed[:, 4:].any()


@pytest.mark.parametrize(
    "conditioning, shape", [("global_attn", [4]), ("local_linear", [4, 6, 1])]
)
def test_a_graph_need_not_know_how_large_images_are(conditioning, shape):
    config = coupling_config(
        conditioning=conditioning, conditioning_dim=4, norm="group", num_groups=1
    )
    init = float64_init()
    step = StepConfig(config, "split", 2)
    members = [
        tfvb.make_masked_conv(4, config, "C", (2, 3), init),
        tfvb.SplitPrior(4, step, 2, 2, init),
    ]
    layer = tfvb.Squeezed(tfvb.Sequential(members, 3, dtype=tf.float64))
    randomize(layer, scale=0.1)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal([3, *size]) for size in ([4, 6, 1], shape)]
    specs = [
        tf.TensorSpec([None] * (value.ndim - 1) + [value.shape[-1]], value.dtype)
        for value in inputs
    ]
    for run in (layer.forward_and_log_det, layer.inverse_and_log_det):
        results = tf.function(run, specs, autograph=False)(*inputs)
        for ours, theirs in zip(results, run(*inputs)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_multiscale_without_conditioning():
    flow = multiscale([0, [1], 1], [4], 1, conditioning_dim=0)
    assert_valid_bijector(flow, (4, 4, 1))


def test_channels_that_left_lie_behind_those_that_stayed_last_to_leave_first():
    """With all steps empty and couplings the identity, v only permutes x."""
    flow = multiscale([0, [0, 0], 0], [4], 1, conditioning_dim=0)
    for steps, split_prior in flow.levels[1]:
        assert not steps
        layers = split_prior.layers
        matrix = layers["conv1x1"].weight
        matrix.assign(np.eye(matrix.shape[0]))
        for weight in (
            layers["coupling"].network.last.gain,
            layers["leaving"].inner.log_scale,
        ):
            weight.assign(tf.zeros_like(weight))
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 1))
    v = flow.inverse(x)
    # Of the four squeezed channels the last left first, the third second; both lie
    # at the end in order [kept, second, first], which is where they were.
    np.testing.assert_allclose(v, x, atol=1e-12)
    first_actnorm = flow.levels[1][0].split_prior.layers["leaving"].inner
    first_actnorm.bias.assign(first_actnorm.bias + 1)
    moved = flow.inverse(tf.identity(x)) - x
    squeezed = tf.nn.space_to_depth(moved, 2)
    np.testing.assert_allclose(squeezed[..., 3], 1.0, atol=1e-12)
    np.testing.assert_allclose(squeezed[..., :3], 0.0, atol=1e-12)


def test_shares_of_positions():
    """Each element of v is shared by the pixels of the block that it belongs to."""
    flow = multiscale([0, [1], 1], [4], 1, conditioning_dim=0)
    elements = np.eye(64).reshape(64, 8, 8, 1)
    shares = np.asarray(flow.position_shares(tf.constant(elements)))
    np.testing.assert_allclose(shares.sum((1, 2)), 1)
    sizes = []
    for element, share in zip(elements[..., 0], shares):
        rows, columns = np.nonzero(share)
        size = rows.max() - rows.min() + 1
        assert len(rows) == size**2 and size == columns.max() - columns.min() + 1
        np.testing.assert_allclose(share[share > 0], 1 / size**2)
        assert (share[element > 0] > 0).all() and rows.min() % size == 0
        sizes.append(size)
    # A quarter of the channels leave at half the resolution.
    assert sizes.count(2) == 16 and sizes.count(4) == 48


def test_initialisation_normalises_and_makes_couplings_the_identity():
    config = FlowConfig(num_steps=[1, [1], 1], hidden=[4] * 3, factors=[4])
    flow = tfvb.MultiScaleFlow(config, 3, 2, Initializer())
    images = random_images(64).astype(np.float32) / 128 - 1
    z = tf.random.stateless_normal([64, 2], [0, 0])
    returned = flow.initialize(images, z)
    v = flow.inverse(images, conditioning=z)
    np.testing.assert_allclose(returned, v, atol=1e-4)
    # All that decides v is linear and normalised now, so z changes nothing.
    np.testing.assert_allclose(v, flow.inverse(images, conditioning=-z), atol=1e-5)
    assert 0.7 < np.std(v) < 1.3 and abs(np.mean(v)) < 0.1
    actnorm = tfvb.ActNorm(3, Initializer())
    y = actnorm.initialize(tf.constant(images))
    np.testing.assert_allclose(np.mean(y, (0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(y, (0, 1, 2), ddof=1), 1, atol=1e-4)


@pytest.mark.parametrize("built_with, given", [(2, False), (0, True)])
def test_missing_or_surplus_conditioning_names_the_layer(built_with, given):
    flow = multiscale([0, [1], 1], [4], 1, conditioning_dim=built_with)
    x = tf.zeros([1, 4, 4, 1], tf.float64)
    kwargs = {"conditioning": tf.zeros([1, 2], tf.float64)} if given else {}
    for run in (flow.inverse, flow.forward):
        with pytest.raises(ValueError, match="flow_level.*conditioning"):
            run(x, **kwargs)


def activations(function, *args) -> int:
    """Activations of networks in the traced graph, nested functions included."""
    graph = tf.function(function).get_concrete_function(*args).graph.as_graph_def()
    functions = [f.node_def for f in graph.library.function]
    nodes = [graph.node, *functions]
    return sum(node.op == "Elu" for part in nodes for node in part)


def test_log_prob_evaluates_each_network_once():
    config = FlowConfig(num_steps=[1, [1], 1], hidden=[4] * 3, factors=[4])
    flow = tfvb.MultiScaleFlow(config, 3, 2, Initializer())
    base = tfp.distributions.Independent(
        tfp.distributions.Normal(tf.zeros([8, 8, 3]), 1.0), 3
    )
    decoder = tfp.distributions.TransformedDistribution(base, flow)
    couplings = 4 * 3 + 1  # four a step, one in the split prior
    kwargs = {"conditioning": tf.zeros([2, 2])}
    x = tf.zeros([2, 8, 8, 3])

    def log_prob(x):
        return decoder.log_prob(x, bijector_kwargs=kwargs)

    def sample_and_log_prob():
        y = decoder.sample(2, seed=1, bijector_kwargs=kwargs)
        return y, decoder.log_prob(y, bijector_kwargs=kwargs)

    assert activations(log_prob, x) == 2 * couplings
    assert activations(sample_and_log_prob) == 2 * couplings


def test_leading_dimensions_beyond_the_batch():
    flow = multiscale([0, [1], 1], [4], 1)
    randomize(flow)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((3, 2, 4, 4, 1)))
    z = tf.constant(rng.standard_normal((2, 2)))  # broadcasts over the first one
    v = flow.inverse(x, conditioning=z)
    log_det = flow.inverse_log_det_jacobian(x, event_ndims=3, conditioning=z)
    assert v.shape == x.shape and log_det.shape == (3, 2)
    expected, expected_log_det = flow.inverse_and_log_det(x[1], z)
    np.testing.assert_allclose(v[1], expected)
    np.testing.assert_allclose(log_det[1], expected_log_det)
    alone = flow.inverse(x[1, 0], conditioning=z[0])
    np.testing.assert_allclose(alone, expected[0], atol=1e-10)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: tfvb.Conv1x1(9, Initializer(), "split", 2), "2 heads cannot share 9"),
        (
            lambda: tfvb.make_coupling(
                1, coupling_config(), tfvb.ChannelSplit(), Initializer()
            ),
            "1 channels cannot be split",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "bijector",
    [
        tfp.bijectors.SinhArcsinh(tf.constant(0.3, tf.float64)),
        tfp.bijectors.Scale(tf.constant([1.5, -2.0, 0.5], tf.float64)),
        tfp.bijectors.Permute([2, 0, 1]),
        tfp.bijectors.Transpose(perm=[1, 0, 2]),
        tfp.bijectors.ScaleMatvecDiag(tf.constant([1.5, -2.0, 0.5], tf.float64)),
        tfp.bijectors.Blockwise(
            [tfp.bijectors.Scale(tf.constant(2.0, tf.float64))] * 2, block_sizes=[1, 2]
        ),
    ],
    ids=lambda bijector: bijector.name,
)
def test_bijectors_of_tfp_are_layers(bijector):
    flow = tfvb.Sequential(
        [bijector, tfvb.ActNorm(3, float64_init(0))], dtype=tf.float64
    )
    assert_valid_bijector(flow, (4, 4, 3))


def test_a_bijector_of_tfp_that_does_not_fit():
    with pytest.raises(UserError, match="takes events of 3 dimensions or more"):
        tfvb.Sequential([tfp.bijectors.Transpose(perm=[1, 0, 2])], event_ndims=1)


def test_a_seed_gives_the_weights_of_an_initializer():
    for seed in (3, Initializer(3)):
        layer = tfvb.Conv1x1(4, seed)
        np.testing.assert_array_equal(layer.weight, Initializer(3).orthogonal(4))

"""One training step: the same on any number of devices, and made whole or not."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from testing import (
    load_digits,
    random_images,
    randomize,
    tiny_experiment,
    tiny_model_config,
)
from tfp_vaeflow import compute, data
from tfp_vaeflow import config as cfg
from tfp_vaeflow.common import noise
from tfp_vaeflow.common.errors import UserError
from tfp_vaeflow.model import build_model
from tfp_vaeflow.training import Trainer, gradients, step
from tfp_vaeflow.training.devices import make_strategy, mirrored
from tfp_vaeflow.training.diagnosis import first_layer_not_finite
from tfp_vaeflow.training.optimization import clipping_scale, moving_average_decay

ONE = ["CPU:0"]
TWO = ["CPU:0", "CPU:1"]
STEPS = 12


def clipped(config, limit=25.0):
    optimizer = dataclasses.replace(config.optimizer, clip_norm=limit)
    return dataclasses.replace(config, optimizer=optimizer)


@pytest.fixture(scope="module")
def splits():
    return load_digits(tiny_experiment())


def begin(config, splits, devices):
    run = Trainer(config, mirrored(devices))
    run.initialize(splits.train)
    return run


def batches_of(config, splits):
    settings = config.training
    return data.training_batches(
        splits.train, config.data, settings.batch_size, settings.seed, 0
    )


def steps(config, splits, devices):
    """What each of some steps tells, and the trainer after them."""
    run = begin(config, splits, devices)
    batches = batches_of(config, splits).take(STEPS)
    return [run.train_step(batch) for batch in batches], run


@pytest.fixture(scope="module")
def whole(splits):
    """Whole batches on one device."""
    config = tiny_experiment(micro_batches=1, evaluation_batch_size=100)
    return steps(clipped(config), splits, ONE)


@pytest.fixture(scope="module")
def in_pieces(splits):
    """Two devices, two micro-batches each."""
    return steps(clipped(tiny_experiment()), splits, TWO)


def test_pieces_add_up_to_the_whole_batch(whole, in_pieces, splits):
    """Losses, clipped gradients, weights, averages and batch norm's statistics."""
    losses = [
        np.array([r.losses for r in results]) for results, _ in (whole, in_pieces)
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    assert losses[0][-1, 0] < losses[0][0, 0]  # it learns
    norms = [
        np.array([r.gradient_norm for r in results])
        for results, _ in (whole, in_pieces)
    ]
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-4)
    assert norms[0][0] > 25 > norms[0][-1]  # some were clipped, some not
    models = [(run.model, run.average) for _, run in (whole, in_pieces)]
    for one, two in zip(*models):
        for a, b in zip(one.variables, two.variables):
            a, b = np.float64(a), np.float64(b)
            np.testing.assert_allclose(b, a, rtol=5e-3, atol=1e-2)
    evaluations = [run.evaluate(splits.validation)[0] for _, run in (whole, in_pieces)]
    np.testing.assert_allclose(evaluations[1], evaluations[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "way, atol",
    [
        ("recompute", 0.0),
        # `test_compiled` has the same by default, on smaller models.
        pytest.param("jit_compile", 1e-6, marks=pytest.mark.slow),
    ],
)
def test_the_way_of_computing_changes_nothing(whole, splits, way, atol):
    """On one device: TensorFlow remembers the shapes of collectives by their number,
    so that steps of two kinds cannot both run on several in one test."""
    config = clipped(tiny_experiment(micro_batches=1, **{way: True}))
    results, run = steps(config, splits, ONE)
    for field in ("losses", "gradient_norm"):
        again, once = (
            np.array([getattr(result, field) for result in both])
            for both in (results, whole[0])
        )
        np.testing.assert_allclose(again[0], once[0], rtol=1e-5, atol=atol)
        np.testing.assert_allclose(again, once, rtol=1e-4, atol=1e-5)
    # Batch norm has seen each batch once, even if it was computed twice.
    for a, b in zip(
        run.model.non_trainable_variables, whole[1].model.non_trainable_variables
    ):
        np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=5e-3, atol=1e-3)


@pytest.mark.slow
def test_two_compiled_replicas_are_one(splits):
    """Losses over 20 steps; they are added up without TensorFlow's collectives, which
    another test of this process may use."""
    found = []
    for strategy, how in (
        (tf.distribute.OneDeviceStrategy("CPU:0"), {"micro_batches": 1}),
        (make_strategy("mirrored", "hierarchical_copy"), {"jit_compile": True}),
    ):
        config = clipped(tiny_experiment(**how))
        run = Trainer(config, strategy)
        run.initialize(splits.train)
        results = [run.train_step(b) for b in batches_of(config, splits).take(20)]
        found.append([[*result.losses, result.gradient_norm] for result in results])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_operations_hold_no_stack_traces(whole, splits):
    """They would be half of the memory of a large graph."""
    _, run = whole
    batch = next(iter(batches_of(tiny_experiment(micro_batches=1), splits)))
    operations = run.graph(batch).get_operations()
    # The function's own arguments come before, and what joins replicas after them.
    assert sum(bool(op.traceback) for op in operations) < len(operations) / 10


def test_validation_counts_every_image_once(whole, splits):
    """144 images in batches of 100: the padding does not count."""
    _, run = whole
    seed = noise.fold_in(3, int(noise.Stream.VALIDATION))
    images = splits.validation.first(144)
    losses = run.average.losses(images, seed=seed)
    for got, term in zip(run.evaluate(splits.validation)[0], losses):
        np.testing.assert_allclose(got, np.mean(term), rtol=1e-4, atol=1e-4)


def test_the_average_is_that_of_the_weights(splits, whole):
    """Batch norm's statistics are copied."""
    config = clipped(tiny_experiment(micro_batches=1))
    _, run = whole
    batch = next(iter(batches_of(config, splits)))
    before = [np.array(v) for v in run.average.variables]
    run.train_step(batch)
    updates = int(run.optimizer.iterations.numpy()) - 1
    decay = min(0.9, (1 + updates) / (10 + updates))
    for average, former, now in zip(run.average.variables, before, run.model.variables):
        expected = now.numpy()
        if now.trainable:
            expected = decay * former + (1 - decay) * expected
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)


def test_decay_of_the_average():
    assert moving_average_decay(0.999, tf.constant(0)) == np.float32(0.1)
    assert moving_average_decay(0.999, tf.constant(10**6)) == np.float32(0.999)


def test_clipping_goes_by_the_global_norm():
    for limit, factor in ((10.0, 1.0), (1.0, 0.2)):
        scale = clipping_scale(tf.constant(5.0), limit)
        np.testing.assert_allclose(scale, factor, rtol=1e-6)


@tf.custom_gradient
def with_gradient_times(x, factor):
    return tf.identity(x), lambda upstream: (upstream * factor, None)


def infinite_on_second_replica(is_bad):
    """A factor: infinity on the second replica in bad steps, else 1."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    is_second = tf.cast(replica, tf.int32) == 1
    return tf.where(is_second & is_bad, np.inf, 1.0)


def spoil_gradient(monkeypatch, bad_step):
    """Makes the gradient of one step infinite, but not its losses."""
    plain = gradients.training_objective

    def objective(losses, config, number, *others):
        factor = infinite_on_second_replica(tf.cast(number, tf.int32) == bad_step)
        return with_gradient_times(plain(losses, config, number, *others), factor)

    monkeypatch.setattr(gradients, "training_objective", objective)


def spoil_loss(monkeypatch, model, taken, bad_step):
    """Makes a loss of one step infinite."""
    plain = model.losses_given_statistics

    def losses_given_statistics(*args, **settings):
        losses = plain(*args, **settings)
        factor = infinite_on_second_replica(tf.cast(taken, tf.int32) == bad_step)
        return losses._replace(kl=losses.kl * factor)

    monkeypatch.setattr(model, "losses_given_statistics", losses_given_statistics)


def values_of(run):
    """All that a step may change, but counts."""
    weights = [*run.model.variables, *run.average.variables]
    slots = [getattr(v, "value", v) for v in run.optimizer.variables]
    return [np.array(tf.convert_to_tensor(v)) for v in (*weights, *slots)]


def test_infinity_on_one_of_two_replicas(splits, monkeypatch):
    """No variable changes; it is counted, and the next step goes on.

    In the second step a loss is infinite, in the third the gradient of a finite one.
    """
    config = tiny_experiment(micro_batches=1)
    run = begin(config, splits, TWO)
    spoil_loss(monkeypatch, run.model, run.counts.taken, bad_step=1)
    spoil_gradient(monkeypatch, bad_step=2)
    changed, said = [], []
    for batch in batches_of(config, splits).take(4):
        before = values_of(run)
        result = run.train_step(batch)
        after = values_of(run)
        changed.append(sum((a != b).any() for a, b in zip(before, after)))
        said.append(result.what_is_not_finite())
    assert changed[1] == changed[2] == 0 and min(changed[0], changed[3]) > 100
    assert said[0] is said[3] is None
    assert said[1].startswith("the kl loss is ")
    assert said[2].startswith("the norm of the gradient is ")
    assert run.step == 4 and int(run.optimizer.iterations.numpy()) == 2
    assert run.counts.skipped.numpy() == 2 and run.counts.skipped_in_a_row.numpy() == 0


def poke(variable, value):
    """Sets a variable for the time of a test."""
    former = tf.identity(variable)
    variable.assign(tf.fill(variable.shape, value))
    return lambda: variable.assign(former)


def test_the_first_layer_that_is_not_finite_is_named(splits, in_pieces, monkeypatch):
    config, run = tiny_experiment(), in_pieces[1]
    batch = next(iter(batches_of(config, splits)))

    def answer():
        return first_layer_not_finite(run.model, config, batch, 0)

    statistics = [np.array(v) for v in run.model.variables if not v.trainable]
    assert answer().endswith("every value is finite")
    block = run.model.flow.levels[1][0].steps[0]
    restore = poke(block.members[4].log_scale, 200.0)
    assert answer() == f"the first that is not finite is layer {block.members[4].name}"
    restore()
    restore = poke(block.members[2].network.last.bias, np.nan)
    assert answer() == f"the first that is not finite is layer {block.members[2].name}"
    restore()
    conv = run.model.encoder.resnet.get_layer("level0_block1_conv1")
    restore = poke(conv.kernel.value, 3e38)
    assert answer() == "the first that is not finite is encoder layer " + conv.name
    restore()
    monkeypatch.setattr(
        gradients,
        "training_objective",
        lambda losses, *_: with_gradient_times(losses.total, np.inf),
    )
    last = run.model.flow.levels[-1][0].steps[-1].members[-1]
    assert (
        answer() == f"the first that is not finite is the gradient of layer {last.name}"
    )
    for before, variable in zip(
        statistics, [v for v in run.model.variables if not v.trainable]
    ):
        np.testing.assert_array_equal(variable, before)


def test_batch_norm_in_the_flow_is_not_compiled_on_several_devices(monkeypatch, capsys):
    config = tiny_experiment(jit_compile=True, micro_batches=1)
    flow = dataclasses.replace(config.model.flow, norm="batch")
    model = dataclasses.replace(config.model, flow=flow)
    asked = dataclasses.replace(config, model=model)
    left = dataclasses.replace(
        asked, training=dataclasses.replace(asked.training, jit_compile=None)
    )
    with pytest.raises(UserError, match="jit_compile is True with FlowConfig.norm"):
        Trainer(asked, mirrored(TWO))
    assert step._is_compiled(asked, 1) and not step._is_compiled(left, 1)
    assert not capsys.readouterr().out
    monkeypatch.setattr(compute, "has_gpu", lambda: True)
    assert step._is_compiled(left, 1) and not step._is_compiled(left, 2)
    assert "is not compiled by XLA, because of Flow" in capsys.readouterr().out


def test_uneven_batches_are_refused():
    strategy = mirrored(TWO)
    with pytest.raises(UserError, match="TrainingConfig.batch_size is 15, which 2"):
        Trainer(tiny_experiment(batch_size=15, micro_batches=1), strategy)
    with pytest.raises(UserError, match="in 2 micro-batches each; expected a multiple"):
        Trainer(tiny_experiment(batch_size=18), strategy)


def test_strategy_takes_all_devices():
    assert make_strategy().num_replicas_in_sync == 2  # conftest makes two


def test_hot_weights_are_refused_by_name():
    with pytest.raises(UserError, match="OptimizerConfig.ema_decay is 1.0; expected"):
        cfg.OptimizerConfig(ema_decay=1.0)


def test_below_free_nats_the_prior_alone_learns_from_the_kl():
    """Its gradient is that of the KL, and the encoder's is that of the flow alone."""
    model = build_model(tiny_model_config())
    images = random_images(8, model.config.image_shape)
    model.initialize(images)
    randomize(model, scale=0.05)
    number = tf.constant(3)
    batch = data.Batch(images, tf.range(8), tf.ones(8), None)

    def gradients_by(**objective):
        experiment = cfg.ExperimentConfig(
            model=model.config,
            objective=cfg.ObjectiveConfig(**objective),
            training=cfg.TrainingConfig(batch_size=8),
        )
        found = gradients.loss_and_gradients(model, experiment, batch, number)[1]
        variables = model.trainable_variables
        return {v.ref(): g.numpy() for v, g in zip(variables, found, strict=True)}

    below = gradients_by(free_nats=1e4, prior_always_learns=True)
    plain = gradients_by()
    without = gradients_by(kl_weight=0.0)
    of_prior = {v.ref() for v in model.prior.trainable_variables}
    assert of_prior
    for variable, gradient in below.items():
        expected = plain if variable in of_prior else without
        np.testing.assert_allclose(gradient, expected[variable], rtol=1e-4, atol=1e-6)

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfp_vaeflow.common import noise
from tfp_vaeflow.common.noise import Stream
from tfp_vaeflow.networks import Initializer


@pytest.mark.parametrize("draw", [noise.uniform, noise.normal])
@pytest.mark.parametrize("shape", [(3,), (4,), (2, 3, 5)])
def test_noise_goes_by_position(draw, shape):
    whole = draw(1, Stream.LOCAL_CODE, 16, shape)
    np.testing.assert_array_equal(draw(1, Stream.LOCAL_CODE, 8, shape), whole[:8])
    part = draw(1, Stream.LOCAL_CODE, 5, shape, first=7)
    np.testing.assert_array_equal(part, whole[7:12])


@pytest.mark.parametrize("draw", [noise.uniform, noise.normal])
def test_seeds_and_streams_are_independent(draw):
    base = draw(1, Stream.PRIOR, 500, (4,)).numpy().ravel()
    others = [
        draw(2, Stream.PRIOR, 500, (4,)),
        draw(1, Stream.POSTERIOR, 500, (4,)),
        draw(noise.fold_in(1, 5), Stream.PRIOR, 500, (4,)),
        draw(1 + 2**31, Stream.PRIOR, 500, (4,)),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other.numpy().ravel())[0, 1]) < 0.1


def test_distributions():
    u = noise.uniform(0, Stream.PRIOR, 1000, (50,)).numpy().ravel()
    x = noise.normal(0, Stream.PRIOR, 1000, (50,)).numpy().ravel()
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 0.001
    assert stats.kstest(x, "norm").pvalue > 0.001


@pytest.mark.parametrize("draw, tolerance", [(noise.uniform, 0), (noise.normal, 1e-5)])
def test_the_same_under_xla(draw, tolerance):
    def run(seed, first):
        return draw(seed, Stream.PRIOR, 4, (5,), first)

    args = noise.as_seed(3), tf.constant(9, tf.int64)
    compiled = tf.function(run, jit_compile=True)(*args)
    np.testing.assert_allclose(compiled, run(*args), rtol=0, atol=tolerance)


def test_initial_weights_follow_the_seed():
    a, b, c = Initializer(1), Initializer(1), Initializer(2)
    first = a.normal((3, 4), 0.05)
    np.testing.assert_array_equal(first, b.normal((3, 4), 0.05))
    assert np.abs(first - a.normal((3, 4), 0.05)).max() > 0
    assert np.abs(first - c.normal((3, 4), 0.05)).max() > 0


def test_initial_weights_are_the_draws_of_their_stream():
    seed = noise.fold_in(noise.fold_in(3, int(Stream.WEIGHTS)), 1)
    draw = noise.normal(seed, Stream.WEIGHTS, 1, (5, 7))[0]
    np.testing.assert_array_equal(Initializer(3).normal((5, 7), 0.5), 0.5 * draw)

import numpy as np
import pytest

from tfp_vaeflow.model import quantization


@pytest.mark.parametrize("n_bins", [2, 3, 17, 32, 100, 255, 256])
def test_levels_and_pixels(n_bins):
    levels = np.arange(n_bins)
    pixels = quantization.to_pixels(levels, n_bins)
    assert pixels.dtype == "uint8"
    np.testing.assert_array_equal(quantization.to_levels(pixels, n_bins), levels)
    # Every pixel falls into the level whose smallest pixel it is not below.
    everything = np.arange(256, dtype=np.uint8)
    found = quantization.to_levels(everything, n_bins).numpy()
    np.testing.assert_array_equal(found, everything.astype(int) * n_bins // 256)
    assert found.min() == 0 and found.max() == n_bins - 1


@pytest.mark.parametrize("n_bins", [2, 17, 32, 256])
@pytest.mark.parametrize("u", [0.0, 0.5, 0.999])
def test_dequantization_is_undone(n_bins, u):
    levels = np.arange(n_bins)
    x = quantization.dequantize(levels, u, n_bins)
    assert x.numpy().min() >= -1 and x.numpy().max() < 1
    # At u = 0 the value lies on the edge; a nudge stands in for exact arithmetic.
    np.testing.assert_array_equal(quantization.quantize(x + 1e-6, n_bins), levels)


def test_what_lies_outside_is_clipped():
    x = np.array([-1e30, -1.01, 1.0, 5.0, 1e30], np.float32)
    levels = quantization.quantize(x, 32)
    np.testing.assert_array_equal(levels, [0, 0, 31, 31, 31])

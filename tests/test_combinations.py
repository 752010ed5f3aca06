"""Models of all settings, as users run them: each value once, and each pair of values.

`tests/whole_list.py` says what each model goes through. The pairs run with `--slow`.
"""

import pytest

import combinations
import whole_list

# Together they hold every value; what a row leaves out has its first value.
COVERING = {
    "plain": {"num_samples": 2, "ema_decay": 0.9, "n_bins": 17},
    "macow": {
        "step": "macow",
        "kernel_size": (1, 5),
        "transform": "additive",
        "prior_transform": "relu",
        "prior": "normal",
        "sides": (4, 8),
        "z_transform": "affine",
    },
    "grey": {
        "transform": "relu",
        "prior_transform": "nlsq",
        "conditioning": "global_attn",
        "norm": "group",
        "conv1x1": "split",
        "activation": "relu",
        "encoder_norm": "group",
        "z_transform": "symm_elu",
        "channels": 1,
        "n_bins": 2,
        "recompute": True,
        "micro_batches": 2,
    },
    "classes": {
        "transform": "nlsq",
        "prior_transform": "symm_elu",
        "norm": "instance",
        "activation": "leaky_relu",
        "prior": "categorical",
        "dequantizer": "variational",
        "mixed_precision": True,
    },
    "without z": {
        "transform": "symm_elu",
        "prior_transform": "additive",
        "norm": "batch",
        "conv1x1": "lu",
        "prior": "none",
        "n_bins": 32,
    },
}
PAIRWISE = combinations.pairwise()


def test_every_value_is_covered():
    values = {
        (name, value)
        for name, options in combinations.SETTINGS.items()
        for value in options
        if name != "z_transform"  # needs five models with the same prior
    }
    rows = [combinations.PLAIN | row for row in COVERING.values()]
    assert not values.difference(*map(combinations.active, rows))


@pytest.mark.parametrize("row", COVERING.values(), ids=COVERING)
def test_every_value(row, tmp_path):
    whole_list.check(combinations.experiment(**row), tmp_path)


def test_every_pair_is_covered_or_refused(record_property):
    possible, refused = combinations.all_pairs()
    covered = set().union(*map(combinations.pairs_of, PAIRWISE))
    assert possible.keys() <= covered
    assert not covered & refused.keys()
    assert not any(map(combinations.refusal, PAIRWISE))
    for pair, row in refused.items():
        message = combinations.refusal(row)
        assert "\n" not in message
        assert all(f"Config.{name} " in message for name, _ in pair), message
        record_property("configuration", "refused")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PAIRWISE)))
def test_every_pair(number, tmp_path, optimized, record_property):
    config = combinations.experiment(**PAIRWISE[number])
    whole_list.check(config, tmp_path)
    record_property("configuration", "passed")

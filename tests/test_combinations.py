"""Models of all settings, as users run them: each value once, and each pair of values.

`tests/whole_list.py` says what each model goes through. The pairs run with `--slow`.
"""

import pytest

import combinations
import whole_list

# Together they hold every value, but for those that would take more models; what a row
# leaves out has its first value.
MORE_MODELS = ("kernel_size", "z_transform")
COVERING = {
    "plain": {"prior": "flow", "num_samples": 2, "ema_decay": 0.9, "n_bins": 17},
    "macow": {
        "step": "macow",
        "kernel_size": (1, 5),
        "transform": "additive",
        "prior_transform": "relu",
        "conditioning": "code_map",
        "principal_components": 3,
        "sides": (4, 8),
    },
    "grey": {
        "transform": "relu",
        "prior_transform": "nlsq",
        "conditioning": "global_attn",
        "norm": "group",
        "conv1x1": "split",
        "activation": "relu",
        "encoder_norm": "group",
        "prior": "flow",
        "z_transform": "symm_elu",
        "channels": 1,
        "n_bins": 2,
        "recompute": True,
        "micro_batches": 2,
        "prior_always_learns": True,
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
        if name not in MORE_MODELS
    }
    rows = [combinations.PLAIN | row for row in COVERING.values()]
    assert not values.difference(*map(combinations.active, rows))


@pytest.mark.parametrize("row", COVERING.values(), ids=COVERING)
def test_every_value(row, tmp_path):
    whole_list.check(combinations.experiment(**row), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("row", COVERING.values(), ids=COVERING)
def test_every_value_with_optimized_graphs(row, tmp_path, optimized):
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
def test_every_pair(number, tmp_path, record_property):
    config = combinations.experiment(**PAIRWISE[number])
    whole_list.check(config, tmp_path)
    record_property("configuration", "passed")

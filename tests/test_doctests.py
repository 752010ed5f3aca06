"""The examples of the public bijectors: in docstrings, and docs/bijectors.md."""

import doctest
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vaeflow import bijectors, config

ROOT = Path(__file__).parents[1]
# Bases, and what looks at a flow.
WITHOUT = {"FlowBijector", "Parametrized", "total_log_det", "watched"}
# Made by functions that have an example, or a part of one.
SHOWN_BY = {
    "MaskedConv": "make_masked_conv",
    "make_transform": "Affine",
}
NAMES = sorted(set(bijectors.__all__) - WITHOUT - set(SHOWN_BY))


@pytest.mark.parametrize("name", NAMES)
def test_example(name):
    names = {
        **vars(bijectors),
        **{"np": np, "tf": tf, "tfb": tfp.bijectors},
        **vars(config),
    }
    docstring = inspect.getdoc(getattr(bijectors, name))
    test = doctest.DocTestParser().get_doctest(docstring, names, name, None, 0)
    assert test.examples, "there is no example"
    said = []
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(test, out=said.append).failed == 0, "".join(said)


def test_the_page_of_the_library():
    text = (ROOT / "docs" / "bijectors.md").read_text(encoding="utf-8")
    by_hand, by_fit = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found = {}
    exec(by_hand, found)
    assert found["losses"][0] > 2 and found["losses"][-1] < 0
    assert np.mean(found["upper"][:, 1] > 0) > 0.9
    exec(by_fit, found)
    nats = found["history"].history["nats"]
    assert nats[0] > 1.5 and nats[-1] < 0.7
    flow, start = found["fitted"].flow, found["ConditionalDensity"]().flow
    moved = [
        np.abs(now - was.numpy()).max()
        for now, was in zip(flow.trainable_variables, start.trainable_variables)
    ]
    assert max(moved) > 0.01

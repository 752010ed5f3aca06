"""Evaluation where parts have few images or classes, or other classes than training."""

import dataclasses
import json

import numpy as np
import pytest

from testing import random_images
from tfp_vaeflow import config as cfg
from tfp_vaeflow.data import Split, Splits
from tfp_vaeflow.data.splits import in_memory
from tfp_vaeflow.evaluation import by_class, likelihood, page, plots, report
from toys import SHAPE, LinearGaussian

_SMALL = cfg.EvaluationConfig(
    num_samples=1,
    batch_size=32,
    generated_images=8,
    classifier_steps=1,
    probe_seeds=2,
    temperatures=(1.0,),
)


@pytest.fixture(scope="module")
def toy():
    return LinearGaussian(inflation=1.0)


def labelled(split: Split, labels) -> Split:
    """The first images of a split, with other labels; None for no labels."""
    count = split.num_images if labels is None else len(labels)
    return dataclasses.replace(
        split.subset(np.arange(count)),
        read_labels=None if labels is None else lambda: np.array(labels, np.int64),
        class_names=("cat", "dog", "cow", "$x^{|_"),
    )


def measured(toy, train_labels, test_labels) -> dict:
    parts = toy.splits(30)
    train, test = labelled(parts.train, train_labels), labelled(parts.test, test_labels)
    result = report.evaluate(toy.model, Splits(train, test, test), "test", _SMALL)
    json.dumps(result, allow_nan=False)
    for part in ("probes", "samples", "fidelity", "decoupling"):
        assert (result[part] is None) == (part in result["notes"])
    text = page.table(result)
    assert all(note in text for note in result["notes"].values())
    assert page.markdown(result, "Title", {})
    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    "train, test, reason",
    [
        ([0] * 30, [0] * 5, "The training images are all of one class, cat."),
        ([0] * 30, [0, 0, 2], "The training images are all of one class, cat."),
        (
            [0, 1] * 15,
            [2] * 5,
            "The measured images are of classes that training lacks.",
        ),
        ([0, 1] * 15, None, "The measured images have no labels."),
        (None, [0, 1], "The training images have no labels."),
    ],
)
def test_nothing_to_learn_from_labels(toy, train, test, reason):
    result = measured(toy, train, test)
    assert result["probe"] is None and result["notes"]["probes"] == reason
    assert result["decoupling"] is not None


@pytest.mark.parametrize(
    "train, test",
    [
        ([0] * 4 + [1], [1]),  # four fifths may lack a class
        pytest.param([0, 1] * 15, [0, 0, 0, 2], marks=pytest.mark.slow),
    ],
)
def test_few_images_and_classes(toy, train, test):
    """There is a report, without NaN; what cannot be told says so."""
    result = measured(toy, train, test)
    assert result["probes"] is not None
    assert "it takes 4 or more" in result["notes"]["fidelity"]
    if len(test) == 1:
        text = "There is too little to measure: one image; it takes 2 or more."
        assert result["notes"]["decoupling"] == text
        assert result["standard_error"] is None
        words = page.table(result).split()
        assert words[words.index("bits/dim") + 1] == f"{result['bits_per_dim']:.4f}"
    else:
        assert "cow (new)" in page.table(result)
        assert result["decoupling"]["num_pairs"] == 3  # of known classes


def test_an_anomaly_score_by_class(toy):
    """Of noise as a new class, and of more of the model's own images as another."""
    own = toy.draw(90, seed=5)
    images = np.concatenate([own.first(90), random_images(30, SHAPE, seed=1)])
    labels = np.repeat([0, 1, 2, 3], 30)
    test = labelled(in_memory(images, labels), labels)
    train = labelled(toy.draw(30, seed=1), [0, 1] * 15)
    bounds = likelihood.bounds(toy.model, test, 1, 120, 0)
    found = by_class.by_class(toy.model, train, test, bounds, _SMALL)
    rows = {row["class"]: row for row in found}
    assert list(rows) == ["cat", "dog", "cow", "$x^{|_"]
    for name in ("cat", "dog"):
        assert rows[name]["in_training"] and rows[name]["likelihood_auc"] is None
    alike, noise = rows["cow"], rows["$x^{|_"]
    assert abs(alike["likelihood_auc"] - 0.5) < 0.2
    assert noise["likelihood_auc"] > 0.99 and noise["typicality_auc"] > 0.99
    assert noise["bits_per_dim"] > alike["bits_per_dim"] + 1
    alone = test.subset(np.arange(60, 120))  # no images to tell the new ones from
    bounds = likelihood.bounds(toy.model, alone, 1, 60, 0)
    found = by_class.by_class(toy.model, train, alone, bounds, _SMALL)
    assert [row["likelihood_auc"] for row in found] == [None, None]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_in_a_plot(tmp_path):
    """Whatever they are: no formula, and none is left out."""
    points, names = np.eye(4)[:, :2], ["$x^{|_", "_a", "日本", "$a$"]
    plots.scatter(tmp_path / "a.png", points, np.arange(4), names.__getitem__)
    assert (tmp_path / "a.png").stat().st_size > 1000

"""What simple classifiers can read off the codes, and how sharp the samples are."""

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from tfp_vaeflow.data import Split
from tfp_vaeflow.evaluation.likelihood import labelled_batches, labels_for
from tfp_vaeflow.model import VAEFlow

# Enough for the solvers to converge on standardised features.
_MAX_ITERATIONS = 5000
# Wider features are reduced to as many principal components, or to one an image if
# there are fewer: logistic regression on all pixels of ten thousand takes hours.
_MAX_WIDTH = 128
# The part of the images that each seed fits on.
_SHARE = 0.8

CLASSIFIERS = {
    "logistic": lambda: LogisticRegression(max_iter=_MAX_ITERATIONS),
    "linear_svm": lambda: LinearSVC(dual=False, max_iter=_MAX_ITERATIONS),
    "rbf_svm": SVC,
    "knn": KNeighborsClassifier,
}
_NEIGHBOURS = 5


def _classifier(kind: str, labels: np.ndarray) -> ClassifierMixin:
    """A classifier that can be fitted on these labels, however few they are."""
    if len(np.unique(labels)) < 2:
        return DummyClassifier()  # names the only class there is
    if kind == "knn":
        return KNeighborsClassifier(min(_NEIGHBOURS, len(labels)))
    return CLASSIFIERS[kind]()


def _standardised(shape: tuple[int, int]) -> Pipeline:
    """To zero mean and unit variance, and to 128 principal components if wider.

    Args:
      shape: of the features that it will be fitted on, images first.
    """
    images, width = shape
    steps = [StandardScaler()]
    if width > _MAX_WIDTH:
        components = min(_MAX_WIDTH, images)
        steps.append(PCA(components, svd_solver="randomized", random_state=0))
    return make_pipeline(*steps)


def logistic_probe(features: np.ndarray, labels: np.ndarray) -> Pipeline:
    """Logistic regression on standardised features `[N, F]`, fitted."""
    classifier = _classifier("logistic", labels)
    return make_pipeline(_standardised(features.shape), classifier).fit(
        features, labels
    )


def at_most(split: Split, count: int, seed: int) -> Split:
    """The split, or `count` of its images drawn at random, in their order."""
    if split.num_images <= count:
        return split
    chosen = np.random.default_rng(seed).permutation(split.num_images)[:count]
    return split.subset(np.sort(chosen))


def features(model: VAEFlow, split: Split, batch_size: int) -> dict[str, np.ndarray]:
    """z (where images have one), v and pixels of a split, flattened to `[N, F]`."""
    rows = {"z": [], "v": [], "pixels": []}
    for batch in labelled_batches(model, split, batch_size):
        labels = labels_for(model, batch, len(batch.images))
        z, v = model.encode(batch.images, batch_size=batch_size, labels=labels)
        if labels is not None:
            z = None  # it is a function of the label
        for name, value in (("z", z), ("v", v), ("pixels", batch.images)):
            if value is not None:
                rows[name].append(np.asarray(value).reshape(len(batch.images), -1))
    return {
        name: np.concatenate(parts)[: split.num_images].astype(np.float64)
        for name, parts in rows.items()
        if parts
    }


def probes(
    model: VAEFlow,
    train: Split,
    test: Split,
    num_seeds: int,
    max_images: int,
    batch_size: int,
) -> dict[str, dict[str, dict[str, float]]]:
    """Test accuracies of four classifiers on z, v and pixels.

    Logistic regression, linear SVM, RBF SVM and five nearest neighbours, with
    scikit-learn's defaults. Each seed fits on four fifths of the training images as
    they are (no augmentation), standardised; features wider than 128 are reduced to
    that many principal components. Of fewer than five images all are neighbours.

    Args:
      model: a trained model.
      train, test: labelled splits.
      num_seeds: choices of the four fifths.
      max_images: of either split; of a larger one so many are drawn at random.
      batch_size: images at a time.

    Returns:
      By classifier and features: `mean` and `stddev` over seeds of the accuracy.
    """
    train, test = (at_most(split, max_images, seed=0) for split in (train, test))
    fit_on = features(model, train, batch_size)
    test_on = features(model, test, batch_size)
    scores = {kind: {name: [] for name in fit_on} for kind in CLASSIFIERS}
    for seed in range(num_seeds):
        order = np.random.default_rng(seed).permutation(train.num_images)
        chosen = order[: max(1, round(_SHARE * train.num_images))]
        for name, rows in fit_on.items():
            scaler = _standardised((len(chosen), rows.shape[1]))
            reduced = scaler.fit_transform(rows[chosen])
            known = scaler.transform(test_on[name])
            for kind in CLASSIFIERS:
                classifier = _classifier(kind, train.labels[chosen])
                fitted = classifier.fit(reduced, train.labels[chosen])
                scores[kind][name].append(fitted.score(known, test.labels))
    return {
        kind: {
            name: {"mean": float(np.mean(found)), "stddev": float(np.std(found))}
            for name, found in by_name.items()
        }
        for kind, by_name in scores.items()
    }


def sample_check(
    model: VAEFlow,
    train: Split,
    num_images: int,
    temperature: float,
    seed: int,
    batch_size: int,
) -> dict[str, float]:
    """How surely a classifier of real images names the samples, and whether it names
    every class.

    Args:
      model: a trained model.
      train: labelled images, to fit a logistic regression on pixels.
      num_images: samples to draw.
      temperature: of the samples.
      seed: of the samples.
      batch_size: images at a time.

    Returns:
      `mean_top_probability`, and `min_class_share`: the smallest share of the samples
      that any class gets. For a class-conditional model, which is asked for every class
      in turn, also `label_agreement`: the share of the samples that the classifier
      gives the label they were asked for.
    """
    pixels = train.first(train.num_images).reshape(train.num_images, -1)
    classifier = logistic_probe(pixels.astype(np.float64), train.labels)
    labels = None
    if model.config.is_class_conditional:
        labels = np.arange(num_images) % model.prior.num_classes
    samples = model.sample(num_images, temperature, seed, batch_size, labels).numpy()
    probabilities = classifier.predict_proba(samples.reshape(num_images, -1))
    shares = np.bincount(
        probabilities.argmax(axis=1), minlength=probabilities.shape[1]
    ) / len(probabilities)
    result = {
        "mean_top_probability": float(probabilities.max(axis=1).mean()),
        "min_class_share": float(shares.min()),
    }
    if labels is not None:
        named = classifier.classes_[probabilities.argmax(axis=1)]
        result["label_agreement"] = float((named == labels).mean())
    return result

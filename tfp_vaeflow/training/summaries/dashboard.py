"""What TensorBoard needs besides values: settings, and the layout of the charts."""

import dataclasses

from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api as hparams

from tfp_vaeflow.config import ExperimentConfig

_CHARTS = {
    "Bound": {
        "bits/dim, training and validation": ["bits_per_dim/total"],
        "terms, bits/dim": [
            "bits_per_dim/generation",
            "bits_per_dim/kl",
            "bits_per_dim/dequantization",
        ],
        "terms, nats": ["nats/generation", "nats/kl", "nats/dequantization"],
    },
    "Optimisation": {
        "norm of the gradient": ["gradient_norm"],
        "learning rate": ["learning_rate"],
        "steps skipped": ["skipped_steps"],
    },
    "Cost": {
        "images per second": ["images_per_second"],
        "peak memory, MiB": ["peak_memory_mib"],
    },
}
_PARTS = ("model", "objective", "optimizer", "training")


def layout() -> bytes:
    """The layout of the custom scalars, as a serialised `Summary`."""
    categories = [
        layout_pb2.Category(
            title=title,
            chart=[
                layout_pb2.Chart(
                    title=chart, multiline=layout_pb2.MultilineChartContent(tag=tags)
                )
                for chart, tags in charts.items()
            ],
        )
        for title, charts in _CHARTS.items()
    ]
    whole = layout_pb2.Layout(category=categories)
    return custom_scalar.pb(whole).SerializeToString()


def settings(config: ExperimentConfig) -> dict[str, bool | int | float | str]:
    """The settings of an experiment by `part.field`, for the table of hparams."""
    found = {}

    def collect(prefix, part):
        for field in dataclasses.fields(part):
            value, name = getattr(part, field.name), f"{prefix}.{field.name}"
            if dataclasses.is_dataclass(value):
                collect(name, value)
            elif isinstance(value, (bool, int, float, str)):
                found[name] = value
            elif value is not None:
                found[name] = str(value)

    for part in _PARTS:
        collect(part, getattr(config, part))
    return found


def write_settings(config: ExperimentConfig) -> None:
    """Writes settings, and the metrics to compare runs by, to the writer in use."""
    found = settings(config)
    metrics = [
        hparams.Metric("bits_per_dim/total", "eval", "validation bits/dim"),
        hparams.Metric("nats/kl", "eval", "validation KL, nats"),
        hparams.Metric("bits_per_dim/total", "train", "training bits/dim"),
    ]
    columns = [hparams.HParam(name) for name in found]
    hparams.hparams_config(hparams=columns, metrics=metrics)
    hparams.hparams(found)

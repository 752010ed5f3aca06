"""All measures, in the order in which they are computed and shown."""

from tfp_vaeflow.evaluation import (
    by_class,
    content,
    decoupling,
    fidelity,
    latents,
    likelihood,
    novelty,
    probes,
    samples,
)

MEASURES = [
    likelihood.MEASURE,
    latents.MEASURE,
    probes.MEASURE,
    samples.MEASURE,
    fidelity.MEASURE,
    decoupling.MEASURE,
    content.MEASURE,
    by_class.MEASURE,
    novelty.MEASURE,
]

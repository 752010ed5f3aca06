"""The invertible layers of the decoder, each a `tfb.Bijector`.

They also work alone, in your own models: docs/bijectors.md shows an example.
"""

from tfp_vaeflow.bijectors.actnorm import ActNorm
from tfp_vaeflow.bijectors.base import FlowBijector, total_log_det, watched
from tfp_vaeflow.bijectors.channels import ChannelSplit, OnChannels
from tfp_vaeflow.bijectors.coarse_picture import CoarsePicture
from tfp_vaeflow.bijectors.conditioned import ConditionedThrough
from tfp_vaeflow.bijectors.conv1x1 import Conv1x1
from tfp_vaeflow.bijectors.coupling import Coupling, make_coupling
from tfp_vaeflow.bijectors.elementwise import (
    Additive,
    Affine,
    Nlsq,
    Relu,
    SymmElu,
    make_transform,
)
from tfp_vaeflow.bijectors.masked_conv import MaCowUnit, MaskedConv, make_masked_conv
from tfp_vaeflow.bijectors.multiscale import MultiScaleFlow
from tfp_vaeflow.bijectors.parametrized import Parametrized
from tfp_vaeflow.bijectors.sequences import PlainBijector, Repeated, Sequential
from tfp_vaeflow.bijectors.squeeze import Squeezed
from tfp_vaeflow.bijectors.steps import GlowStep, MaCowStep, SplitPrior

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "ChannelSplit",
    "CoarsePicture",
    "ConditionedThrough",
    "Conv1x1",
    "Coupling",
    "FlowBijector",
    "GlowStep",
    "MaCowStep",
    "MaCowUnit",
    "MaskedConv",
    "MultiScaleFlow",
    "Nlsq",
    "OnChannels",
    "Parametrized",
    "PlainBijector",
    "Relu",
    "Repeated",
    "Sequential",
    "SplitPrior",
    "Squeezed",
    "SymmElu",
    "make_coupling",
    "make_masked_conv",
    "make_transform",
    "total_log_det",
    "watched",
]

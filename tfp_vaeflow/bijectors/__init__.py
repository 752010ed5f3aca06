"""The invertible layers of the decoder, each a `tfb.Bijector`."""

from tfp_vaeflow.bijectors.actnorm import ActNorm
from tfp_vaeflow.bijectors.base import FlowBijector, Sequential, total_log_det, watched
from tfp_vaeflow.bijectors.conv1x1 import Conv1x1
from tfp_vaeflow.bijectors.coupling import ChannelSplit, Coupling
from tfp_vaeflow.bijectors.masked_conv import MaCowUnit, MaskedConv
from tfp_vaeflow.bijectors.multiscale import Block, MultiScaleFlow
from tfp_vaeflow.bijectors.squeeze import Squeezed
from tfp_vaeflow.bijectors.step_graphs import StepGraphs
from tfp_vaeflow.bijectors.steps import GlowStep, MaCowStep, SplitPrior, StepConfig

__all__ = [
    "ActNorm",
    "Block",
    "ChannelSplit",
    "Conv1x1",
    "Coupling",
    "FlowBijector",
    "GlowStep",
    "MaCowStep",
    "MaCowUnit",
    "MaskedConv",
    "MultiScaleFlow",
    "Sequential",
    "SplitPrior",
    "Squeezed",
    "StepConfig",
    "StepGraphs",
    "total_log_det",
    "watched",
]

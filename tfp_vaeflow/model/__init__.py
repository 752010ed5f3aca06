"""Encoder, prior, dequantizer and flow decoder as one model."""

from tfp_vaeflow.model.build import build_model
from tfp_vaeflow.model.draws import LossNoise
from tfp_vaeflow.model.vaeflow import VAEFlow

__all__ = ["LossNoise", "VAEFlow", "build_model"]

"""Encoder, prior, dequantizer and flow decoder as one model."""

from tfp_vaeflow.model.draws import LossNoise
from tfp_vaeflow.model.vaeflow import VAEFlow, build_model

__all__ = ["LossNoise", "VAEFlow", "build_model"]

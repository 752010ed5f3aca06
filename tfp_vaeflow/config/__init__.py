"""The settings of models and runs: frozen dataclasses in plain Python.

Every field is checked when the object is made, so that a wrong experiment file
fails before anything is built. Nothing here imports TensorFlow; `experiment` alone
imports gin, and is not imported here.
"""

from tfp_vaeflow.config.flow import CouplingConfig, FlowConfig, StepConfig
from tfp_vaeflow.config.model import (
    DequantizerConfig,
    EncoderConfig,
    ModelConfig,
    PriorConfig,
    model_config_from_dict,
)
from tfp_vaeflow.config.run import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainingConfig,
)

__all__ = [
    "CouplingConfig",
    "DataConfig",
    "DequantizerConfig",
    "EncoderConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "FlowConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PriorConfig",
    "StepConfig",
    "TrainingConfig",
    "model_config_from_dict",
]

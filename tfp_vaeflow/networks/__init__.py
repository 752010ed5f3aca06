"""Networks: those inside the bijectors, Keras ResNets, and their initial weights."""

from tfp_vaeflow.networks.base import (
    AnyNetwork,
    Folding,
    Network,
    unseen_keras_variables,
)
from tfp_vaeflow.networks.conditioners import (
    GlobalAttention,
    GlobalLinear,
    LocalLinear,
    MapLinear,
    SharedProduct,
)
from tfp_vaeflow.networks.coupling import CouplingNetwork, make_coupling_network
from tfp_vaeflow.networks.initializer import Initializer
from tfp_vaeflow.networks.linear import (
    ACTIVATIONS,
    STD_EPSILON,
    FixedLinear,
    Linear,
    WeightNormLinear,
    fixed,
    mean_and_std,
)
from tfp_vaeflow.networks.masked import RowNetwork, make_row_network
from tfp_vaeflow.networks.principal import PrincipalComponents, Projection

__all__ = [
    "ACTIVATIONS",
    "STD_EPSILON",
    "AnyNetwork",
    "CouplingNetwork",
    "FixedLinear",
    "Folding",
    "GlobalAttention",
    "GlobalLinear",
    "Initializer",
    "Linear",
    "LocalLinear",
    "MapLinear",
    "Network",
    "PrincipalComponents",
    "Projection",
    "RowNetwork",
    "SharedProduct",
    "WeightNormLinear",
    "fixed",
    "make_coupling_network",
    "make_row_network",
    "mean_and_std",
    "unseen_keras_variables",
]

"""The base of layers that transform x elementwise, by parameters from a network."""

import tensorflow as tf

from tfp_vaeflow.bijectors.base import FlowBijector
from tfp_vaeflow.bijectors.elementwise import Transform
from tfp_vaeflow.networks import Network, RowNetwork


class Parametrized(FlowBijector):
    """An elementwise transform whose parameters a network outputs.

    Data-dependent initialisation makes the network's output 0 if it can, so that
    training starts from the identity. The network then need not run.

    Attributes:
      transform: the elementwise transform.
      network: outputs its parameters.

    Args:
      transform, network: these.
      event_ndims: 3 for images, 1 for vectors.
      name: names the layer.
      dtype: of inputs.
    """

    def __init__(
        self,
        transform: Transform,
        network: Network | RowNetwork,
        event_ndims: int,
        name: str,
        dtype: tf.DType,
    ):
        super().__init__(event_ndims, name, dtype, network.conditioning_ndims)
        self.transform = transform
        self.network = network

    def check_conditioning(self, conditioning: tf.Tensor | None) -> None:
        """Checks that there is a conditioning if, and only if, the network needs one.

        Raises:
          ValueError: if not; it names the layer.
        """
        expected = self.network.is_conditioned
        if expected is None:
            return
        if expected and conditioning is None:
            raise ValueError(
                f"{self.name}: conditioning is missing; this layer was built to be "
                "conditioned, pass conditioning="
            )
        if not expected and conditioning is not None:
            raise ValueError(
                f"{self.name}: got conditioning of shape {tuple(conditioning.shape)}, "
                "but its network takes none (Network.is_conditioned); leave "
                "conditioning= out"
            )

    # Both directions, given the parameters: summaries watch these methods.

    def forward_by(
        self, v: tf.Tensor, params: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """v -> x given the parameters, and the log-derivative of each element."""
        return self.transform.forward_and_log_derivative(v, params)

    def inverse_by(
        self, x: tf.Tensor, params: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """x -> v given the parameters, and the log-derivative of each element."""
        return self.transform.inverse_and_log_derivative(x, params)

    def initialize_on(self, values, conditioning):
        for given in conditioning:
            self.check_conditioning(given)
        if not self.network.initialize_to_zero():
            super().initialize_on(values, conditioning)

"""AlphaGo's policy network (Silver et al. 2016, "Mastering the game of Go with deep neural networks
and tree search", Methods, "Neural network architecture").

    19x19x48 -> filters@5x5 -> eleven filters@3x3 -> 1@1x1 with a bias a position -> 361 logits

ReLU after each convolution but the last; zeros around the board keep 19x19. No pooling, no linear
layer: a softmax over the 361 logits gives the move's probabilities. The paper's match version has
192 filters.
"""

from __future__ import annotations

from fastconv import init
from fastconv.layers import Conv2d, Flatten, Layer, PositionBias, ReLU, Sequential
from fastconv.layers.arguments import positive


def alphago_policy(
    filters: int = 192,
    *,
    planes: int = 48,
    convolutions: int = 12,
    board: int = 19,
    seed: int | None = None,
) -> Sequential:
    """AlphaGo's policy network for positions (48, 19, 19).

    Parameters
    ----------
    filters : int
        Of each convolution but the last; the paper tries 128, 192, 256 and 384.
    planes : int
        Feature planes of the input.
    convolutions : int
        Before the last; the first of them is 5x5. Fewer make a network that trains on a CPU.
    board : int
        Rows and columns.
    seed : int, optional
        Of the initial weights; by default they come from ``fc.init``'s generator.

    Returns
    -------
    Sequential
        Gives logits (N, board^2), row by row.

    Raises
    ------
    ValueError
        If a size is below 1.

    Examples
    --------
    >>> import fastconv as fc
    >>> model = fc.models.alphago_policy()
    >>> model.num_parameters, model.output_shape((1, 48, 19, 19))
    (3882793, (1, 361))
    """
    filters, planes, convolutions, board = positive(
        "alphago_policy", filters=filters, planes=planes, convolutions=convolutions, board=board
    )
    with init.seeded(seed):
        layers: dict[str, Layer] = {
            "conv1": Conv2d(planes, filters, 5, padding=2),
            "relu1": ReLU(),
        }
        for index in range(2, convolutions + 1):
            layers[f"conv{index}"] = Conv2d(filters, filters, 3, padding=1)
            layers[f"relu{index}"] = ReLU()
        layers["last"] = Conv2d(filters, 1, 1, bias=False)
        layers["position_bias"] = PositionBias(1, board, board)
        layers["flatten"] = Flatten()
    return Sequential(layers)

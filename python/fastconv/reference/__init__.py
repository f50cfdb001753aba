"""Every function of fastconv in plain NumPy, written to be read and to be held against.

Each module opens with the formulas of a family and of its gradients. Same names and arguments as
in `fastconv`, less `algorithm` and `out`; results have the dtype of the arguments and are computed
in it, so that float64 arrays give reference values for float32 ones. Imports NumPy and nothing of
fastconv: what checks cannot be contaminated by what it checks.
"""

from .activation import (
    leaky_relu,
    leaky_relu_backward,
    log_softmax,
    log_softmax_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from .adaptive_pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_max_pool2d,
    adaptive_max_pool2d_backward,
    global_avg_pool2d,
    global_avg_pool2d_backward,
)
from .avg_pool import avg_pool2d, avg_pool2d_backward
from .conv import (
    conv2d,
    conv2d_backward,
    conv2d_grad_bias,
    conv2d_grad_input,
    conv2d_grad_weight,
    pack_weight,
)
from .conv_transpose import conv_transpose2d, conv_transpose2d_backward
from .dropout import dropout, dropout_backward
from .linear import linear, linear_backward
from .local_response_norm import local_response_norm, local_response_norm_backward
from .loss import cross_entropy, cross_entropy_backward
from .max_pool import (
    max_pool2d,
    max_pool2d_backward,
    max_unpool2d,
    max_unpool2d_backward,
)
from .normalization import batch_norm, batch_norm_backward
from .one_dimension import avg_pool1d, conv1d, max_pool1d
from .shapes import conv2d_output_shape, pool2d_output_shape

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "conv1d",
    "conv2d",
    "conv2d_backward",
    "conv2d_grad_bias",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "conv2d_output_shape",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "dropout_backward",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "local_response_norm",
    "local_response_norm_backward",
    "log_softmax",
    "log_softmax_backward",
    "max_pool1d",
    "max_pool2d",
    "max_pool2d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "pack_weight",
    "pool2d_output_shape",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
]

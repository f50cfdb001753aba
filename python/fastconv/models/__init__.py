"""Networks, each in a file of its own. ``MODELS`` lists them for the command line."""

from fastconv.models.caffe import caffe_lenet, cifar10_quick
from fastconv.models.catalogue import MODELS, Entry, find
from fastconv.models.cifar_resnet import cifar_plain, cifar_resnet
from fastconv.models.googlenet import googlenet
from fastconv.models.lenet5 import lenet5

__all__ = [
    "MODELS",
    "Entry",
    "caffe_lenet",
    "cifar10_quick",
    "cifar_plain",
    "cifar_resnet",
    "find",
    "googlenet",
    "lenet5",
]

"""Networks, each in a file of its own. ``MODELS`` lists them for the command line."""

from fastconv.models.alexnet import alexnet
from fastconv.models.all_cnn import all_cnn_a, all_cnn_b, all_cnn_c
from fastconv.models.alphago_policy import alphago_policy
from fastconv.models.caffe import caffe_lenet, cifar10_quick
from fastconv.models.catalogue import MODELS, Entry, find
from fastconv.models.cifar_resnet import cifar_plain, cifar_resnet
from fastconv.models.fully_convolutional import average_pooled, fully_convolutional
from fastconv.models.googlenet import googlenet
from fastconv.models.highway import cifar_highway, highway_mlp
from fastconv.models.lenet5 import lenet5
from fastconv.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from fastconv.models.vgg import vgg11, vgg13, vgg16, vgg19
from fastconv.models.zfnet import zfnet

__all__ = [
    "MODELS",
    "Entry",
    "alexnet",
    "all_cnn_a",
    "all_cnn_b",
    "all_cnn_c",
    "alphago_policy",
    "average_pooled",
    "caffe_lenet",
    "cifar10_quick",
    "cifar_highway",
    "cifar_plain",
    "cifar_resnet",
    "find",
    "fully_convolutional",
    "googlenet",
    "highway_mlp",
    "lenet5",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "zfnet",
]

"""Data sets from local files (MNIST idx, CIFAR-10, image folders), batches, augmentation; images as
a trained network wants them."""

from fastconv.data.cifar10 import load_cifar10, read_cifar10_binary
from fastconv.data.dataset import CropAndFlip, Dataset, batches
from fastconv.data.image_folder import load_image_folder, load_image_splits
from fastconv.data.imagenet import imagenet_classes
from fastconv.data.mnist import load_mnist, read_idx
from fastconv.data.preprocessing import PREPROCESSINGS, Preprocessing

__all__ = [
    "PREPROCESSINGS",
    "CropAndFlip",
    "Dataset",
    "Preprocessing",
    "batches",
    "imagenet_classes",
    "load_cifar10",
    "load_image_folder",
    "load_image_splits",
    "load_mnist",
    "read_cifar10_binary",
    "read_idx",
]

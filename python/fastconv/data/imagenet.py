"""The 1,000 classes of ImageNet's challenge (ILSVRC 2012) in the order of published weights.

The file beside this one is Caffe's ``synset_words.txt``: a line a class, its id in WordNet 3.0
(https://wordnet.princeton.edu, Copyright 2006 by Princeton University), by which the lines are
sorted, and its names there. torchvision, Caffe and others number classes in this order.
"""

from __future__ import annotations

import re
from functools import cache
from os import PathLike
from pathlib import Path

# Of the training images, scaled to 0..1, red first: what published networks expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# A class's id in WordNet, before its name.
WORDNET_ID = re.compile(r"^n\d{8}\s+")


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Names of ImageNet's 1,000 classes; the output number ``i`` of a network is class ``i``.

    Examples
    --------
    >>> import fastconv as fc
    >>> names = fc.data.imagenet_classes()
    >>> len(names), names[0], names[340]
    (1000, 'tench, Tinca tinca', 'zebra')
    """
    return read_class_names(Path(__file__).with_name("imagenet_classes.txt"))


def read_class_names(path: str | PathLike[str]) -> tuple[str, ...]:
    """Names of classes in a text file, a line each; an id such as ``n01440764`` before it goes.

    Raises
    ------
    ValueError
        If the file is empty or no text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    names = tuple(WORDNET_ID.sub("", line.strip(), count=1) for line in lines if line.strip())
    if not names:
        raise ValueError(f"{path} holds no names of classes")
    return names

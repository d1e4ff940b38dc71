"""Convolutional models of images.

Images may have the shape ``[b, height, width, channels]``, may lack the channel axis if there is
one channel, or may be flattened.  They are reshaped to ``shape``, an argument of every factory.
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array
from fjx.models._adapters import from_linen
from fjx.models._model import Model


def cnn(
    *,
    classes: int = 10,
    shape: Sequence[int] = (28, 28, 1),
    channels: Sequence[int] = (32, 64),
    hidden: int = 512,
) -> Model:
    """CNN of McMahan et al.: 5x5 convolutions with 2x2 max-pooling, and one hidden layer.

    Guarantees:
        - 1,663,370 parameters by default, the paper's count (section 3).  The count implies padding
          "same", which halves 28 to 14 to 7.

    Args:
        classes: number of classes.
        shape: height, width and channels of an image.  If ``2 ** len(channels)`` does not divide
            both sides, the pooling drops the last row or column.
        channels: widths of the convolutions.
        hidden: width of the dense layer.

    Returns:
        A :class:`Model` of ``x: f[b, ...]``, reshaped to ``[b, *shape]``.

    Raises:
        ValueError: a size is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> params = jax.eval_shape(cnn().init, jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        1663370

    References:
        McMahan, Moore, Ramage, Hampson, Aguera y Arcas, *Communication-Efficient Learning of Deep
        Networks from Decentralized Data*, AISTATS 2017 (arXiv:1602.05629).
    """
    _check(classes=[classes], shape=shape, channels=channels, hidden=[hidden])
    module = _Cnn(tuple(shape), tuple(channels), hidden, classes)
    return from_linen(module, jax.ShapeDtypeStruct((1, *shape), jnp.float32))


def emnist_cnn(
    *,
    classes: int = 62,
    shape: Sequence[int] = (28, 28, 1),
    channels: Sequence[int] = (32, 64),
    hidden: int = 128,
    dropout: tuple[float, float] = (0.25, 0.5),
) -> Model:
    """EMNIST model of Reddi et al.: 3x3 convolutions, one max-pooling, dropout.

    Guarantees:
        - 1,206,590 parameters by default (320 + 18,496 + 1,179,776 + 7,998), and 1,199,882 with the
          10 classes of the digits.

    Args:
        classes: number of classes.
        shape: height, width and channels of an image.
        channels: widths of the convolutions, which do not pad.
        hidden: width of the dense layer.
        dropout: dropout rates after the pooling and after the dense layer.

    Returns:
        A :class:`Model` of ``x: f[b, ...]``, reshaped to ``[b, *shape]``.

    Raises:
        ValueError: a size is not positive, or a rate is outside [0, 1).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> params = jax.eval_shape(emnist_cnn().init, jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        1206590

    References:
        Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, *Adaptive Federated
        Optimization*, ICLR 2021 (arXiv:2003.00295), appendix C.
    """
    _check(classes=[classes], shape=shape, channels=channels, hidden=[hidden])
    for rate in dropout:
        _validate.number("dropout", rate, at_least=0.0, below=1.0)
    module = _EmnistCnn(tuple(shape), tuple(channels), hidden, classes, dropout)
    return from_linen(module, jax.ShapeDtypeStruct((1, *shape), jnp.float32))


def resnet18(
    *,
    classes: int,
    shape: Sequence[int] = (24, 24, 3),
    widths: Sequence[int] = (64, 128, 256, 512),
    strides: Sequence[int] = (1, 1, 1, 1),
    blocks: int = 2,
    groups: int = 2,
) -> Model:
    """ResNet-18 with GroupNorm, which couples no examples and keeps no statistics.

    The pre-activation blocks follow the published code of Reddi et al. (google-research/federated,
    ``utils/models/resnet_models.py``): a 7x7 stem of stride 2, a 3x3 max-pooling of stride 2, four
    stages of two basic blocks, and projections with their own norm.  That code uses strides in the
    stem only, so a 24x24 crop stays 6x6 after it; He et al. use ``strides=(1, 2, 2, 2)``.

    Guarantees:
        - 11,227,812 parameters with the 100 classes of CIFAR-100, and 11,181,642 with 10 classes:
          9,536 in the stem, 147,840, 525,440, 2,099,456 and 8,393,216 in the stages, 1,024 in the
          last norm and 513 for each class, derived from that code.
        - Strides and groups do not change the count.

    Args:
        classes: number of classes.
        shape: height, width and channels of an image; the paper crops CIFAR's 32x32 to 24x24.
        widths: channels of the stages.
        strides: stride of the first block of each stage.
        blocks: number of blocks in a stage.
        groups: number of groups of every GroupNorm; the paper has 2.

    Returns:
        A :class:`Model` of ``x: f[b, ...]``, reshaped to ``[b, *shape]``.

    Raises:
        ValueError: a size is not positive, ``strides`` is not as long as ``widths``, or ``groups``
            does not divide a width.

    Examples:
        >>> import jax
        >>> params = jax.eval_shape(resnet18(classes=100).init, jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        11227812

    References:
        He, Zhang, Ren, Sun, *Identity Mappings in Deep Residual Networks*, ECCV 2016
        (arXiv:1603.05027); Hsieh, Phanishayee, Mutlu, Gibbons, *The Non-IID Data Quagmire of
        Decentralized Machine Learning*, ICML 2020 (arXiv:1910.00189); Reddi et al., *Adaptive
        Federated Optimization*, ICLR 2021 (arXiv:2003.00295), appendix C.
    """
    _check(classes=[classes], shape=shape, widths=widths, strides=strides, blocks=[blocks])
    _check(groups=[groups])
    if len(strides) != len(widths):
        raise ValueError(f"strides must have one entry for each of widths {widths}, got {strides}")
    if any(width % groups for width in widths):
        raise ValueError(f"groups must divide every one of widths {widths}, got {groups}")
    module = _ResNet(tuple(shape), tuple(widths), tuple(strides), blocks, groups, classes)
    return from_linen(module, jax.ShapeDtypeStruct((1, *shape), jnp.float32))


def _check(**sizes: Sequence[int]) -> None:
    for name, values in sizes.items():
        for value in values:
            _validate.static_integer(name, value, at_least=1)


class _Cnn(nn.Module):
    shape: tuple[int, ...]
    channels: tuple[int, ...]
    hidden: int
    classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], *self.shape)
        for width in self.channels:
            x = nn.relu(nn.Conv(width, (5, 5))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(self.hidden)(_flatten(x)))
        return nn.Dense(self.classes)(x)


class _EmnistCnn(nn.Module):
    shape: tuple[int, ...]
    channels: tuple[int, ...]
    hidden: int
    classes: int
    dropout: tuple[float, float]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        after_pool, after_dense = self.dropout
        drop = functools.partial(nn.Dropout, deterministic=not self.has_rng("dropout"))
        x = x.reshape(x.shape[0], *self.shape)
        for width in self.channels:
            x = nn.relu(nn.Conv(width, (3, 3), padding="VALID")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = _flatten(drop(after_pool)(x))
        x = drop(after_dense)(nn.relu(nn.Dense(self.hidden)(x)))
        return nn.Dense(self.classes)(x)


class _ResNet(nn.Module):
    shape: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    blocks: int
    groups: int
    classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.reshape(x.shape[0], *self.shape)
        x = _conv(self.widths[0], (7, 7), strides=2)(x)
        x = nn.relu(_norm(self.groups)(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for stage, (width, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
            for block in range(self.blocks):
                # The stem has already normalised the input of the first block.
                x = _Block(
                    width,
                    stride if block == 0 else 1,
                    self.groups,
                    normalised=stage == block == 0,
                )(x)
        x = nn.relu(_norm(self.groups)(x))
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))


class _Block(nn.Module):
    width: int
    stride: int
    groups: int
    normalised: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x if self.normalised else nn.relu(_norm(self.groups)(x))
        y = _conv(self.width, (3, 3), strides=self.stride)(y)
        y = nn.relu(_norm(self.groups)(y))
        y = _conv(self.width, (3, 3))(y)
        if x.shape != y.shape:
            x = _conv(self.width, (1, 1), strides=self.stride)(x)
            x = _norm(self.groups)(x)
        return x + y


_conv = functools.partial(nn.Conv, use_bias=False, kernel_init=nn.initializers.he_normal())
_norm = functools.partial(nn.GroupNorm, epsilon=1e-3)


def _flatten(x: Array) -> Array:
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))

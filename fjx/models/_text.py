"""Models of sequences of tokens, trained to predict the next token.

``x: i[b, t]`` are tokens and ``y: i[b, t]`` the tokens that follow them.  Positions with y < 0 are
padding and are ignored, whatever token x has there.  The loss of a sequence is the mean over its
real positions (:func:`fjx.models.cross_entropy`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fjx import _validate
from fjx._base import Array, Key
from fjx.layers._recurrent import scan
from fjx.models._adapters import from_linen
from fjx.models._model import Model


def char_lstm(
    *, vocabulary: int = 90, embedding: int = 8, hidden: int = 256, layers: int = 2
) -> Model:
    """Shakespeare model of McMahan et al. as in TensorFlow Federated: a stacked LSTM.

    The model is an embedding, ``layers`` LSTMs, and a dense layer on every h_t.  Each LSTM computes

        i, f, g, o = W x_t + U h_{t-1} + b
        c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

    The kernels are in Keras's layout, with the gates side by side, and forget biases start at one.

    The model of LEAF differs in two points: its vocabulary has 80 characters, which makes 817,872
    parameters, and it predicts only the character that follows the whole sequence.  To obtain it,
    use ``vocabulary=80`` and make y negative except in the last column.

    Guarantees:
        - Causal.
        - 820,522 parameters by default, as in TensorFlow Federated with its vocabulary of 86
          characters and 4 special tokens: 720 in the embedding, 271,360 and 525,312 in the LSTMs,
          23,130 in the last layer.

    Args:
        vocabulary: number of tokens.
        embedding: width of the embedding.
        hidden: width of the LSTMs.
        layers: number of LSTMs.

    Returns:
        A :class:`Model` of ``x: i[b, t]`` for any t, with logits ``[b, t, vocabulary]``.

    Raises:
        ValueError: a size is not positive.

    Examples:
        >>> import jax
        >>> params = jax.eval_shape(char_lstm().init, jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        820522

    References:
        McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*,
        AISTATS 2017 (arXiv:1602.05629); Caldas et al., *LEAF: A Benchmark for Federated Settings*,
        2018 (arXiv:1812.01097); Reddi et al., *Adaptive Federated Optimization*, ICLR 2021
        (arXiv:2003.00295), appendix C.
    """
    _check(vocabulary=vocabulary, embedding=embedding, hidden=hidden, layers=layers)
    module = _CharLstm(vocabulary, embedding, hidden, layers)
    return from_linen(module, jax.ShapeDtypeStruct((1, 1), jnp.int32))


def transformer(
    *, vocabulary: int, layers: int, width: int, heads: int, length: int, dropout: float = 0.0
) -> Model:
    """Small causal decoder: pre-norm blocks of attention and a feed-forward layer of 4 * width.

    With N a LayerNorm, each block computes x <- x + Attention(N(x)) and then x <- x + W2 gelu(W1
    N(x)).  Positions are learned, and the output layer has its own weights.  Dropout acts on the
    embeddings, the attention weights and both residual branches.

    Guarantees:
        - Causal.
        - The number of parameters is V w + T w + L (12 w^2 + 13 w) + 2 w + (w + 1) V, with V, L, T,
          w for vocabulary, layers, length and width.

    Args:
        vocabulary: number of tokens.
        layers: number of blocks.
        width: width of the residual stream.
        heads: number of attention heads; it divides ``width``.
        length: length of the longest sequence.
        dropout: dropout rate, in [0, 1).

    Returns:
        A :class:`Model` of ``x: i[b, t]`` with t <= length and logits ``[b, t, vocabulary]``.

    Raises:
        ValueError: a size is not positive, ``heads`` does not divide ``width``, or a sequence is
            longer than ``length``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> model = transformer(vocabulary=5, layers=1, width=8, heads=2, length=16)
        >>> params = jax.eval_shape(model.init, jax.random.key(0))
        >>> jax.eval_shape(model.apply, params, jnp.zeros((2, 3), jnp.int32)).shape
        (2, 3, 5)

    References:
        Vaswani et al., *Attention Is All You Need*, NeurIPS 2017 (arXiv:1706.03762); Xiong et al.,
        *On Layer Normalization in the Transformer Architecture*, ICML 2020 (arXiv:2002.04745).
    """
    _check(vocabulary=vocabulary, layers=layers, width=width, heads=heads, length=length)
    _validate.number("dropout", dropout, at_least=0.0, below=1.0)
    if width % heads:
        raise ValueError(f"heads must divide width {width}, got {heads}")
    module = _Transformer(vocabulary, layers, width, heads, length, dropout)
    return from_linen(module, jax.ShapeDtypeStruct((1, 1), jnp.int32))


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        _validate.static_integer(name, value, at_least=1)


class _CharLstm(nn.Module):
    vocabulary: int
    embedding: int
    hidden: int
    layers: int

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        # Time comes first, as the loops of the layers need it; only tokens and logits are transposed.
        x = nn.Embed(self.vocabulary, self.embedding)(jnp.moveaxis(tokens, 1, 0))
        for _ in range(self.layers):
            x = _Lstm(self.hidden)(x)
        return jnp.moveaxis(nn.Dense(self.vocabulary)(x), 0, 1)


class _Lstm(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x: Array) -> Array:  # [t, b, d] -> [t, b, hidden]
        kernel, bias = _Affine(4 * self.hidden, name="Dense_0")(x.shape[-1])
        recurrent = self.param(
            "recurrent_kernel", nn.initializers.orthogonal(), (self.hidden, 4 * self.hidden)
        )
        # One product a step with both kernels.  Taking the product with the inputs out of the loop
        # saves no time, and it moves arrays of four times the width.
        both = jnp.concatenate([kernel, recurrent])

        def step(carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
            h, c = carry
            gates = jnp.concatenate([x, h], axis=-1) @ both + bias[None]
            i, f, g, o = jnp.split(gates, 4, axis=-1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * nn.tanh(g)
            h = nn.sigmoid(o) * nn.tanh(c)
            return (h, c), h

        # Made from x, so that under shard_map the carry varies over devices as the inputs do.
        zeros = jnp.zeros_like(x, shape=(x.shape[1], self.hidden))
        return scan(step, (zeros, zeros), x)[1]


class _Affine(nn.Module):
    """Parameters of a dense layer."""

    features: int

    @nn.compact
    def __call__(self, inputs: int) -> tuple[Array, Array]:
        kernel = self.param("kernel", nn.initializers.he_normal(), (inputs, self.features))
        return kernel, self.param("bias", _forget_bias, (self.features,))


def _forget_bias(key: Key, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Ones for the forget gate (the second of the four gates), zeros for the others."""
    hidden = shape[0] // 4
    return jnp.zeros(shape, dtype).at[hidden : 2 * hidden].set(1)


class _Transformer(nn.Module):
    vocabulary: int
    layers: int
    width: int
    heads: int
    length: int
    dropout: float

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        t = tokens.shape[1]
        if t > self.length:
            raise ValueError(f"x must have at most length={self.length} tokens, got {t}")
        positions = self.param("positions", nn.initializers.normal(0.02), (self.length, self.width))
        x = nn.Embed(self.vocabulary, self.width)(tokens) + positions[None, :t]
        x = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(x)
        for _ in range(self.layers):
            x = _DecoderBlock(self.width, self.heads, self.dropout)(x)
        return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))


class _DecoderBlock(nn.Module):
    width: int
    heads: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        deterministic = not self.has_rng("dropout")
        drop = nn.Dropout(self.dropout, deterministic=deterministic)
        t = x.shape[1]
        causal = jnp.tril(jnp.ones((t, t), bool))[None, None]
        attention = nn.MultiHeadDotProductAttention(
            self.heads,
            dropout_rate=self.dropout,
            broadcast_dropout=False,
            deterministic=deterministic,
        )
        x = x + drop(attention(nn.LayerNorm()(x), mask=causal))
        y = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
        return x + drop(nn.Dense(self.width)(y))

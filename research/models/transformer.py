"""One transformer that is BERT, RoBERTa, GPT-2, T5 or BART by the fields of its `Arch`."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from research.models.arch import Arch, validate
from research.models.attention import Attention, cross_mask, relative_bias, self_mask
from research.models.cache import Cache, Kept, heads_first
from research.models.dropout import Dropout
from research.models.heads import Classifier, Head
from research.models.layers import MLP, Dense, Dtype, Embedding, embed, norm
from research.types import UserError


class Block(nn.Module):
    """Self-attention, cross-attention where `cross`, and feed-forward, each with its norm and residual."""

    arch: Arch
    cross: bool
    dtype: Dtype = jnp.float32
    fused: bool = False
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None,
        mask: jax.Array | None,
        context_mask: jax.Array | None,
        bias: jax.Array | None,
        deterministic: bool,
        kept: Kept | None = None,
        index: jax.Array | None = None,
    ) -> tuple[jax.Array, Kept | None]:
        """Return the new states, and what the block keeps of them where `kept` is given."""
        arch = self.arch
        own, across = kept if kept else (None, None)

        def add(x: jax.Array, name: str, branch: Any) -> tuple[jax.Array, Any]:
            after = norm(arch, self.dtype, f"{name}_norm")
            y, other = branch(after(x) if arch.norm_first else x)
            x = x + Dropout(arch.dropout)(y, deterministic)
            return x if arch.norm_first else after(x), other

        attention = Attention(arch, self.dtype, self.fused, self.causal, name="self_attention")
        x, own = add(x, "self_attention", lambda h: attention(h, None, mask, bias, deterministic, own, index))
        if self.cross:
            attention = Attention(arch, self.dtype, self.fused, name="cross_attention")
            x, across = add(
                x, "cross_attention", lambda h: attention(h, context, context_mask, None, deterministic, across)
            )
        mlp = MLP(arch, self.dtype, name="mlp")
        x, _ = add(x, "mlp", lambda h: (mlp(h, deterministic), None))
        if kept and self.cross and kept.across is None:
            across = heads_first(across)
        return x, Kept(own, across) if kept else None


class Stack(nn.Module):
    """An encoder, or a decoder where `causal`: embeddings, blocks and final norm."""

    arch: Arch
    layers: int
    causal: bool
    cross: bool = False
    dtype: Dtype = jnp.float32
    remat: bool = False
    fused: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        segments: jax.Array | None,
        deterministic: bool,
        prefix: jax.Array | None = None,
        context: jax.Array | None = None,
        context_segments: jax.Array | None = None,
        cache: Cache | None = None,
        valid: jax.Array | None = None,
        types: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Return the states [B, T, D], and `cache` with these tokens added where one is given.

        With a cache, `valid` (bool[B, T]) says which tokens are not padding, and `prefix` that all see one another.
        """
        arch, length = self.arch, x.shape[1]
        keys, first, positions = length, 0, None
        if cache is None:
            mask = self_mask(length, segments, causal=self.causal, prefix=prefix)
        else:
            keys, first, positions = cache.valid.shape[1], cache.index, cache.positions(valid)
            cache = cache.add(valid)
            mask = cache.mask(length, bidirectional=prefix is not None)
        x = embed(arch, x, segments, self.dtype, positions, types)
        x = Dropout(arch.dropout)(x, deterministic)
        context_mask = cross_mask(segments, context_segments) if self.cross else None
        bias = None
        if arch.positions == "relative":
            bias = relative_bias(arch, length, keys, first, bidirectional=not self.causal)
        block = nn.remat(Block, static_argnums=(6,)) if self.remat else Block
        blocks = []
        for i in range(self.layers):
            one = block(arch, self.cross, self.dtype, self.fused, self.causal and prefix is None, name=f"block_{i}")
            kept = cache.blocks[i] if cache else None
            x, kept = one(x, context, mask, context_mask, bias, deterministic, kept, first if cache else None)
            blocks.append(kept)
        if arch.final_norm:
            x = norm(arch, self.dtype, "final_norm")(x)
        x = Dropout(arch.dropout if arch.final_dropout else 0.0)(x, deterministic)
        return x, cache._replace(blocks=tuple(blocks)) if cache else None


class Transformer(nn.Module):
    """Map tokens to final states; `output_projection` and a product with it make them logits.

    Parameters are float32 whatever `dtype`, which is what products are computed in; `remat` keeps only each block's
    input for the backward pass and computes the rest again, and `fused` has cuDNN compute attention (see
    `attention.fused_attend`), without its dropout. Dropout draws from the rng named "dropout".

    Begin with `build.initial_parameters(arch, key)`: Linen's own `init` fills the right shapes with zeros.
    """

    arch: Arch
    dtype: Dtype = jnp.float32
    remat: bool = False
    fused: bool = False

    def setup(self) -> None:
        arch = validate(self.arch)
        if not arch.vocab_size:
            raise UserError("arch.vocab_size is 0: set it to the number of ids of the tokenizer")
        if arch.head != "vocabulary" and not arch.labels:
            raise UserError("arch.labels is 0: set it to the number of labels of the task")
        self.tokens = Embedding(arch.vocab_size, arch.width, self.dtype)
        both = arch.structure == "encoder-decoder"
        if arch.encoder_layers:
            self.encoder = Stack(arch, arch.encoder_layers, False, False, self.dtype, self.remat, self.fused)
        if arch.depth:
            self.decoder = Stack(arch, arch.depth, True, both, self.dtype, self.remat, self.fused)
        if arch.head == "vocabulary":
            self.head = Head(arch, self.dtype)
        else:
            self.classifier = Classifier(arch, self.dtype)
        if arch.pooler:
            self.pooler = Dense(arch.width, dtype=self.dtype)

    def encode(
        self,
        tokens: jax.Array,
        segments: jax.Array | None = None,
        deterministic: bool = True,
        types: jax.Array | None = None,
    ) -> jax.Array:
        """Return the encoder's states [B, T, D] of tokens int32[B, T]."""
        return self.encoder(self.tokens(tokens), segments, deterministic, types=types)[0]

    def extend(
        self,
        tokens: jax.Array,
        valid: jax.Array,
        cache: Cache,
        *,
        bidirectional: bool = False,
        states: jax.Array | None = None,
        source_segments: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Return the states of the last of `tokens`, ready for the vocabulary projection, [B, D], and the longer cache.

        What `__call__` would give for all tokens up to it, at the price of the new ones.

        Args:
            tokens: int32[B, T], the next tokens of the decoder; padding stands on the left.
            valid: bool[B, T], which of them are not padding.
            cache: Of the tokens before, or `cache.empty`.
            bidirectional: Whether these tokens see one another whatever their order, as a prefix LM's prefix does.
            states: [B, S, D], the encoder's; used by the first call, whose cache holds what later ones need of them.
            source_segments: int32[B, S], 0 where the source is padding; for every call.
        """
        prefix = jnp.ones_like(valid) if bidirectional else None
        x, cache = self.decoder(self.tokens(tokens), None, True, prefix, states, source_segments, cache, valid)
        return self.head(x[:, -1:])[:, 0], cache

    def states(
        self,
        tokens: jax.Array,
        segments: jax.Array | None = None,
        *,
        prefix: jax.Array | None = None,
        source: jax.Array | None = None,
        source_segments: jax.Array | None = None,
        types: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Return the last stack's states [B, T, D], before any head; arguments as in `__call__`."""
        if self.arch.structure == "encoder":
            return self.encode(tokens, segments, deterministic, types)
        if self.arch.structure == "decoder":
            return self.decoder(self.tokens(tokens), segments, deterministic, prefix)[0]
        # Both are looked up at once: two look-ups would have two gradients as large as the table.
        both = self.tokens(jnp.concatenate([source, tokens], axis=1))
        read, written = jnp.split(both, [source.shape[1]], axis=1)
        memory, _ = self.encoder(read, source_segments, deterministic)
        return self.decoder(written, segments, deterministic, prefix, memory, source_segments)[0]

    def pool(self, states: jax.Array) -> jax.Array:
        """Return BERT's summary of the sequences whose first tokens have these `states`, [..., D]: a tanh layer."""
        return jnp.tanh(self.pooler(states))

    def __call__(
        self,
        tokens: jax.Array,
        segments: jax.Array | None = None,
        *,
        prefix: jax.Array | None = None,
        select: jax.Array | None = None,
        source: jax.Array | None = None,
        source_segments: jax.Array | None = None,
        types: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Return states ready for the last projection: [B, T, D], or [B, K, D] at the positions `select`.

        Args:
            tokens: int32[B, T], read by the encoder, or by the decoder where there is one (then shifted right).
            segments: int32[B, T], the document of each token, 0 for padding; None: one document, no padding, and no
                masks beyond the causal one.
            prefix: bool[B, T], tokens of a decoder that are seen from everywhere within their document.
            select: int32[B, K], positions whose states are returned.
            source: int32[B, S], read by the encoder of an encoder-decoder.
            source_segments: int32[B, S]; a target document sees the source of the same number.
            types: int32[B, T], 0 for the first and 1 for the second text of a pair (BERT); None: all 0.
            deterministic: Whether dropout is off; else pass rngs={"dropout": key}.

        Raises:
            UserError: Rows longer than the position table, or a shape that cannot be built.
        """
        states = self.states(
            tokens,
            segments,
            prefix=prefix,
            source=source,
            source_segments=source_segments,
            types=types,
            deterministic=deterministic,
        )
        if select is not None:
            states = jnp.take_along_axis(states, select[..., None], axis=1)
        if self.arch.pooler and (self.is_initializing() or self.arch.head == "sequence"):
            pooled = self.pool(states)
            states = pooled if self.arch.head == "sequence" else states
        return self.head(states) if self.arch.head == "vocabulary" else self.classifier(states, deterministic)

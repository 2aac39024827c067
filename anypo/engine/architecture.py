"""A read-only view of Llama-like causal language models, for code that runs the layers itself.

The sampling engine and the packed training forward go through this view instead of `model.forward`, so that they may lay
out tokens as they like. The view holds the model's own parameters: nothing is copied, so an optimiser step is seen at once.

One decoder layer, x [N, hidden] (root-mean-square norm with weight w: `norm(x, w) = w x / sqrt(mean(x^2) + eps)`):

    q, k, v = q(h), k(h), v(h)      with h = norm(x, input_norm), split into heads of `head_dim`
    q, k = norm(q, q_norm), norm(k, k_norm) per head where the family has them (Qwen3), then rotated by `rotary(position)`
    x = x + o(attention(q, k, v))   causal, scores scaled by head_dim^-1/2, kv head = head // (heads / kv_heads)
    x = x + down(activation(gate(h)) * up(h))      with h = norm(x, post_norm)

and logits = head @ norm(x, norm).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FAMILIES = ("Llama", "Qwen2", "Qwen3", "Mistral")
ROTARY = ("default", "linear", "llama3", "yarn")


@dataclass
class Layer:
    """The parts of one decoder layer. Call the projections (they may carry LoRA adapters); the norms are weights.

    `qkv` / `gate_up` are views over the storage of (q, k, v) and (gate, up) weights after `Architecture.fuse`, else None.
    """

    input_norm: nn.Parameter
    q: nn.Module
    k: nn.Module
    v: nn.Module
    o: nn.Module
    q_norm: nn.Parameter | None
    k_norm: nn.Parameter | None
    post_norm: nn.Parameter
    gate: nn.Module
    up: nn.Module
    down: nn.Module
    qkv: Tensor | None = None
    gate_up: Tensor | None = None

    @property
    def projections(self) -> tuple[nn.Module, ...]:
        """q, k, v, o, gate, up, down."""
        return (self.q, self.k, self.v, self.o, self.gate, self.up, self.down)


@dataclass(frozen=True)
class Architecture:
    """The view. `model` is the transformers causal LM it looks at (without a peft wrapper)."""

    model: Any
    family: str
    embedding: nn.Parameter
    layers: tuple[Layer, ...]
    norm: nn.Parameter
    head: nn.Parameter
    rotary_module: Any
    activation: Callable[[Tensor], Tensor]
    eps: float
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int

    @staticmethod
    def of(model: Any) -> Architecture | None:
        """The view of `model`, or None when any piece of it is not one this module knows exactly.

        Known: Llama, Qwen2, Qwen3 and Mistral causal LMs without a sliding window in use, static rotary frequencies, plain
        or LoRA-adapted (peft) projections, tied or untied head, no forward hooks.
        """
        model = _without_peft(model)
        family = type(model).__name__.removesuffix("ForCausalLM")
        if family not in FAMILIES or not type(model).__module__.startswith("transformers.models."):
            return None
        body, config = model.model, model.config
        layers = list(body.layers[: config.num_hidden_layers])
        rotary = body.rotary_emb
        known = (
            type(body.embed_tokens) is nn.Embedding
            and type(model.lm_head) is nn.Linear
            and model.lm_head.bias is None
            and all(_known_layer(layer, family) for layer in layers)
            and getattr(rotary, "rope_type", "default") in ROTARY
            and not _slides(config)
            and not any(m._forward_hooks or m._forward_pre_hooks for m in _modules(model, body, layers))
        )
        if not known:
            return None
        attention = layers[0].self_attn
        return Architecture(
            model=model,
            family=family,
            embedding=body.embed_tokens.weight,
            layers=tuple(_layer(layer) for layer in layers),
            norm=body.norm.weight,
            head=model.lm_head.weight,
            rotary_module=rotary,
            activation=F.silu if config.hidden_act in ("silu", "swish") else layers[0].mlp.act_fn,
            eps=body.norm.variance_epsilon,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=attention.head_dim,
            intermediate=config.intermediate_size,
            vocabulary=model.lm_head.weight.shape[0],
        )

    @property
    def plain(self) -> bool:
        """True when every projection is an ordinary linear layer (no adapters)."""
        return all(type(p) is nn.Linear for layer in self.layers for p in layer.projections)

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [N, head_dim] for integer positions [N], in the model's dtype."""
        frequencies = self.rotary_module.inv_freq.to(device=positions.device, dtype=torch.float32)
        angle = positions.float()[:, None] * frequencies
        angle = torch.cat((angle, angle), -1)
        scale = self.rotary_module.attention_scaling
        return (angle.cos() * scale).to(self.dtype), (angle.sin() * scale).to(self.dtype)

    def rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """Root-mean-square norm over the last dimension, computed in float32 as transformers does."""
        if x.dtype == torch.float32:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def qkv(self, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [N, heads, D], keys and values [N, kv_heads, D] of normed inputs x [N, hidden], not rotated yet."""
        n, d = x.shape[0], self.head_dim
        q, k, v = layer.q(x).view(n, -1, d), layer.k(x).view(n, -1, d), layer.v(x).view(n, -1, d)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self.rms_norm(q, layer.q_norm), self.rms_norm(k, layer.k_norm)
        return q, k, v

    def mlp(self, layer: Layer, x: Tensor) -> Tensor:
        """The gated feed-forward of normed inputs x [N, hidden]."""
        return layer.down(self.activation(layer.gate(x)) * layer.up(x))

    def fuse(self) -> bool:
        """Lay the q, k, v weights of each layer (and gate, up) side by side in one storage, so one product serves all.

        The parameters stay the trainer's own objects; only their storage moves, once (in-place updates, saving, loading by
        copy and deepcopy are unaffected). Call again at will: storage that is still fused is left alone, and storage that
        somebody replaced is fused again. False, with nothing touched, for models with adapters or unusual biases.
        """
        if not self.plain:
            return False
        for layer in self.layers:
            layer.qkv = _fused(layer.qkv, (layer.q, layer.k, layer.v))
            layer.gate_up = _fused(layer.gate_up, (layer.gate, layer.up))
        return True


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [N, heads, D] by cos and sin [N, D] (half-split convention of transformers)."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos[:, None] + turned * sin[:, None]


def _without_peft(model: Any) -> Any:
    """The causal LM inside a peft model whose only change is ordinary LoRA on linear layers; other models as they are."""
    if type(model).__module__.split(".")[0] != "peft":
        return model
    from peft import LoraModel

    tuner = model.base_model
    ordinary = isinstance(tuner, LoraModel) and not any(
        getattr(config, "alora_invocation_tokens", None) for config in tuner.peft_config.values()
    )
    return tuner.model if ordinary else model


def _known_projection(module: nn.Module) -> bool:
    if type(module) is nn.Linear:
        return True
    if type(module).__module__.split(".")[0] != "peft":
        return False
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer) and type(module.get_base_layer()) is nn.Linear


def _known_layer(layer: Any, family: str) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        type(layer).__name__ == f"{family}DecoderLayer"
        and type(attention).__name__ == f"{family}Attention"
        and type(mlp).__name__ == f"{family}MLP"
        and attention.scaling == attention.head_dim**-0.5
        and all(_known_projection(p) for p in _layer(layer).projections)
    )


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return Layer(
        input_norm=layer.input_layernorm.weight,
        q=attention.q_proj,
        k=attention.k_proj,
        v=attention.v_proj,
        o=attention.o_proj,
        q_norm=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
        k_norm=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
        post_norm=layer.post_attention_layernorm.weight,
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
    )


def _slides(config: Any) -> bool:
    """Whether some layer attends to fewer tokens than the longest context."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any(kind != "full_attention" for kind in kinds)
    window = getattr(config, "sliding_window", None)
    return window is not None and window < config.max_position_embeddings


def _modules(model: nn.Module, body: Any, layers: list[Any]) -> list[nn.Module]:
    """Every module the view steps around, whose hooks it would skip (projections are called, so theirs run)."""
    inner = [m for layer in layers for m in (layer, layer.self_attn, layer.mlp, layer.input_layernorm)]
    return [model, body, body.embed_tokens, body.norm, model.lm_head, *inner]


def _fused(current: Tensor | None, modules: tuple[Any, ...]) -> Tensor:
    """One [sum of rows, columns] tensor whose row slices are the weights of `modules`."""
    weights = [module.weight for module in modules]
    if current is not None and _is_fused(current, weights):
        return current
    with torch.no_grad():
        fused = torch.cat([weight.data for weight in weights])
        start = 0
        for weight in weights:
            weight.data = fused[start : start + weight.shape[0]]
            start += weight.shape[0]
    return fused


def _is_fused(fused: Tensor, weights: list[Tensor]) -> bool:
    address, size = fused.data_ptr(), fused.element_size() * fused.shape[1]
    for weight in weights:
        if weight.data_ptr() != address or weight.dtype != fused.dtype:
            return False
        address += weight.shape[0] * size
    return True

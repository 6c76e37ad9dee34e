"""The decoder of a causal LM of any class (embedding, layers, norm; no head), and its layers."""

from typing import Any

from torch import nn

from thinktune.errors import UserError

LAST_NORMS = ("norm", "final_layernorm", "ln_f")  # what transformers' decoders call the norm after the last layer
LAYER_LISTS = ("layers", "h", "blocks")  # what transformers' decoders call the list of their layers


def decoder(model: Any) -> Any:
    """Return the decoder without its head, whose forward pass returns `last_hidden_state` (batch, tokens, hidden)."""
    inner = model.get_decoder()
    return model.model if inner is model else inner  # some classes find no decoder in themselves


def decoder_layers(model: Any) -> Any:
    """Return the decoder's layers, an `nn.ModuleList`; raises UserError for a class that has none of a known name."""
    inner = decoder(model)
    for name in LAYER_LISTS:
        if isinstance(layers := getattr(inner, name, None), nn.ModuleList):
            return layers
    raise UserError(
        f"model.name: {type(model).__name__} has no list of layers under a known name ({', '.join(LAYER_LISTS)}); "
        "use another model"
    )


def last_norm(model: Any) -> nn.Module | None:
    """Return the norm after a decoder's last layer; None for a class that has none of a known name."""
    inner = decoder(model)
    found = (getattr(inner, name, None) for name in LAST_NORMS)
    return next((norm for norm in found if isinstance(norm, nn.Module)), None)

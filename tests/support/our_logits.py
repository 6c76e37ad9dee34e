"""Logits of a model folder by our own forward pass, to compare other engines with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from thinktune.model.attention import set_attention
from thinktune.model.batch import collate
from thinktune.model.forward import hidden_states, inference_context, lm_head_weight
from thinktune.model.loading import load_model
from thinktune.model.proof import model_traits
from thinktune.tokenization import Rendered, TokenKind


def our_logits(folder: Path, ids: Sequence[int]) -> torch.Tensor:
    """Return the logits (tokens, vocabulary) after each token, weights and arithmetic in fp32 on the CPU."""
    model = load_model(folder, torch.device("cpu"), torch.float32)
    set_attention(model, torch.float32)
    kinds = np.zeros(len(ids), np.uint8)
    kinds[-1] = TokenKind.ANSWER  # a batch has a label
    batch = collate([Rendered(np.asarray(ids, np.int32), kinds, "")], len(ids))
    with inference_context(model):
        return model_traits(model).logits(hidden_states(model, batch) @ lm_head_weight(model).T)

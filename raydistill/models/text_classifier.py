"""A Hugging Face base model over text: prompts in, scores of every class out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from raydistill.models.checkpoint import load_backbone, quiet, read_config, read_record, read_weights, seeded
from raydistill.models.families import depth, family_of
from raydistill.models.lora import refuse_adapters
from raydistill.models.pooling import pooled
from raydistill.models.surgery import LayerMap, keep_layers, model_hash
from raydistill.seeding import stream_seed

RECORD = "classifier.json"
HEAD = "head.safetensors"
HEAD_STD = 0.02
SETTINGS = ("class_names", "pooling", "max_tokens", "head_dropout", "output_scale", "decoder_start")


class TextClassifier(nn.Module):
    """Scores every class of a text, by a linear head on one state that is read off the backbone's final states.

    Args:
        backbone: A base model over tokens.
        head: From that state to the classes.
        class_names: One a class.
        pooling: How the state is read off, a key of :data:`raydistill.models.pooling.POOLINGS`.
        max_tokens: Longest prompt in tokens.
        head_dropout: Probability with which the head drops entries of the state.
        output_scale: Factor on the state.
        decoder_start: What the decoder is given, with the pooling ``answer``.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        head: nn.Linear,
        *,
        class_names: Sequence[str],
        pooling: str,
        max_tokens: int,
        head_dropout: float = 0.0,
        output_scale: float = 1.0,
        decoder_start: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(head_dropout)
        self.head = head
        self.class_names = tuple(class_names)
        self.pooling = pooling
        self.max_tokens = max_tokens
        self.output_scale = output_scale
        self.register_buffer("decoder_start", torch.tensor([list(decoder_start)], dtype=torch.int64), persistent=False)

    def hidden(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch dim"]:
        """Return the state that the head reads, one a prompt.

        Args:
            input_ids: Tokens, padded on the right; a causal model takes padding on the left too, with equal results.
            attention_mask: 1 where there is a token of the prompt. It is not optional: the padding token may well be
                one that occurs in prompts.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if family_of(self.backbone).causal:
            inputs["position_ids"] = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
        if self.pooling == "answer":
            inputs["decoder_input_ids"] = self.decoder_start.expand(len(input_ids), -1)
        states = self.backbone(**inputs).last_hidden_state
        hidden = pooled(states, attention_mask, self.pooling)
        return hidden if self.output_scale == 1.0 else hidden * self.output_scale

    def logits(self, hidden: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Return the scores of all classes for states of :meth:`hidden`."""
        return self.head(self.dropout(hidden.to(self.head.weight.dtype)))

    def forward(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch dim"]:
        """Return :meth:`hidden`, so that wrappers which call the module (data parallel, sharded) work."""
        return self.hidden(input_ids, attention_mask)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.head.out_features

    @property
    def causal(self) -> bool:
        """Whether a position sees the past only."""
        return family_of(self.backbone).causal

    @property
    def stack(self) -> str | None:
        """The stack of blocks that is cut, where the backbone has two: a decoder is kept whole."""
        return "encoder" if self.pooling == "answer" else None

    @property
    def n_layers(self) -> int:
        """Number of Transformer blocks (of the encoder, where there is a decoder too)."""
        return depth(self.backbone, self.stack)

    def keep_layers(self, layer_map: LayerMap, *, teacher_hash: str | None = None) -> TextClassifier:
        """Return a classifier of some of this one's blocks and its head; see :func:`raydistill.models.keep_layers`.

        Args:
            layer_map: Indices of the blocks to keep; with a decoder, those of the encoder.
            teacher_hash: What :func:`raydistill.models.model_hash` gives for this model, where it is known.

        Raises:
            ModelError: A layer map that does not fit, or LoRA adapters that are not merged.
        """
        refuse_adapters(self.backbone, "cut")
        if self.stack is not None and not isinstance(layer_map, Mapping):
            layer_map = {self.stack: layer_map}
        backbone = keep_layers(self.backbone, layer_map, teacher_hash=teacher_hash or model_hash(self))
        return self._like(backbone, deepcopy(self.head)).train(self.training)

    def reinitialized(self, seed: int) -> TextClassifier:
        """Return a classifier of the same shape with random weights, in training mode.

        Args:
            seed: Initialization depends on it alone.
        """
        refuse_adapters(self.backbone, "initialized anew")
        arguments = family_of(self.backbone).constructor_arguments(self.backbone)
        with seeded(seed):
            backbone = type(self.backbone)(deepcopy(self.backbone.config), **arguments)
        return self._like(backbone, random_head(backbone, self.n_classes, seed)).train()

    def _settings(self) -> dict:
        values = {name: getattr(self, name, None) for name in SETTINGS}
        return {**values, "head_dropout": self.dropout.p, "decoder_start": self.decoder_start[0].tolist()}

    def _like(self, backbone: PreTrainedModel, head: nn.Linear) -> TextClassifier:
        other = TextClassifier(backbone, head, **self._settings())
        other.decoder_start = self.decoder_start.clone()  # on its device
        return other

    def save_pretrained(self, folder: str | Path, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
        """Write the backbone as Hugging Face does, and beside it ``head.safetensors`` and ``classifier.json``.

        Args:
            folder: Where to.
            tokenizer: Written too, where given, so that the folder is complete.
        """
        refuse_adapters(self.backbone, "saved")
        folder = Path(folder)
        with quiet():
            self.backbone.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        save_file({name: tensor.contiguous() for name, tensor in self.head.state_dict().items()}, folder / HEAD)
        record = {**self._settings(), "attention": self.backbone.config._attn_implementation}
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TextClassifier:
        """Return the classifier that :meth:`save_pretrained` wrote, in eval mode.

        Raises:
            ModelError: The folder holds no classifier, or an incomplete one.
        """
        settings = read_record(folder, RECORD, "TextClassifier", {*SETTINGS, "attention"})
        weights = read_weights(folder, HEAD)
        family, _ = read_config(str(folder))
        model_class = family.answer_class if settings["pooling"] == "answer" else None
        attention = settings.pop("attention")
        _, backbone = load_backbone(str(folder), dtype="auto", attention=attention, model_class=model_class)
        n_classes, width = weights["weight"].shape
        head = nn.utils.skip_init(nn.Linear, width, n_classes)
        head.load_state_dict(weights, assign=True)
        return cls(backbone, head, **settings).eval()


def random_head(backbone: PreTrainedModel, n_classes: int, seed: int) -> nn.Linear:
    """Return a head whose weights depend on the seed and its shape alone."""
    head = nn.utils.skip_init(nn.Linear, backbone.config.hidden_size, n_classes)
    with seeded(stream_seed(seed, "head")), torch.no_grad():
        head.weight.normal_(std=HEAD_STD)
        head.bias.zero_()
    return head

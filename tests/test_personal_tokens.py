"""The placeholder token: what the text encoders make of it, and that the backbone's own stay as they were."""

import copy

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from evaluation.baselines.personal.tokens import LearnedVectors, Placeholder, TokenPromptEncoder
from slider_lightning.backbone import Backbone, PromptEmbeds
from slider_lightning.errors import InputError
from tests.personal_training import TOKEN

PROMPTS = ["image of a person", "", "a very old man, with glasses"]


def equal(first: PromptEmbeds, second: PromptEmbeds) -> bool:
    return torch.equal(first.prompt_embeds, second.prompt_embeds) and torch.equal(
        first.pooled_prompt_embeds, second.pooled_prompt_embeds
    )


def vectors_of(backbone: Backbone, initializer: str | None = "old", num_vectors: int = 1) -> LearnedVectors:
    return LearnedVectors.initial(backbone.prompt_encoder, Placeholder(TOKEN, num_vectors), initializer)


@pytest.fixture(params=["eos of today", "eos of SDXL's configuration"])
def either_backbone(backbone: Backbone, request: pytest.FixtureRequest) -> Backbone:
    """SDXL's encoders say that the end token is 2; transformers then pools at the highest token id."""
    if request.param != "eos of today":
        text_encoder, text_encoder_2 = backbone.prompt_encoder.text_encoders or ()
        text_encoder.eos_token_id = text_encoder_2.text_model.eos_token_id = 2
    return backbone


@pytest.mark.parametrize("num_vectors", [1, 3])
def test_a_token_that_begins_as_a_word_means_that_word(either_backbone: Backbone, num_vectors: int) -> None:
    encoder = TokenPromptEncoder(either_backbone.prompt_encoder, vectors_of(either_backbone, "old", num_vectors))
    words = " ".join(["old"] * num_vectors)
    with_token = encoder.frozen_embeds([f"image of a {TOKEN} man, smiling", TOKEN])
    assert equal(with_token, either_backbone.encode_prompts([f"image of a {words} man, smiling", words]))


def test_prompts_without_the_token_are_encoded_bit_for_bit_as_before(either_backbone: Backbone) -> None:
    before = either_backbone.encode_prompts(PROMPTS)
    state = copy.deepcopy([e.state_dict() for e in either_backbone.prompt_encoder.text_encoders or ()])
    sizes = [len(tokenizer) for tokenizer in either_backbone.prompt_encoder.tokenizers]
    encoder = TokenPromptEncoder(either_backbone.prompt_encoder, vectors_of(either_backbone, None))
    encoder.encode([TOKEN]).prompt_embeds.sum().backward()
    assert equal(encoder.frozen_embeds(PROMPTS), before)
    either_backbone.prompt_encoder._cache.clear()
    assert equal(either_backbone.encode_prompts(PROMPTS), before)
    assert [len(tokenizer) for tokenizer in either_backbone.prompt_encoder.tokenizers] == sizes
    for text_encoder, kept in zip(either_backbone.prompt_encoder.text_encoders or (), state, strict=True):
        assert text_encoder.state_dict().keys() == kept.keys()
        assert all(torch.equal(tensor, kept[name]) for name, tensor in text_encoder.state_dict().items())


def test_embeddings_are_those_of_diffusers_own_textual_inversion(pipeline_folder, backbone: Backbone) -> None:
    vectors = vectors_of(backbone, None, num_vectors=2)
    torch.nn.init.normal_(vectors.clip_l, std=0.3, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(vectors.clip_g, std=0.3, generator=torch.Generator().manual_seed(1))
    pipeline = StableDiffusionXLPipeline.from_pretrained(pipeline_folder, local_files_only=True)
    for tensor, encoder, tokenizer in (
        (vectors.clip_l, pipeline.text_encoder, pipeline.tokenizer),
        (vectors.clip_g, pipeline.text_encoder_2, pipeline.tokenizer_2),
    ):
        state = {TOKEN: tensor.detach()}
        pipeline.load_textual_inversion(state, token=TOKEN, text_encoder=encoder, tokenizer=tokenizer)
    prompt = f"a {TOKEN} man"
    expected, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    found = TokenPromptEncoder(backbone.prompt_encoder, vectors).frozen_embeds([prompt])
    torch.testing.assert_close(found.prompt_embeds, expected)
    torch.testing.assert_close(found.pooled_prompt_embeds, pooled)


def test_gradients_reach_the_vectors_and_nothing_else(backbone: Backbone) -> None:
    vectors = vectors_of(backbone)
    encoder = TokenPromptEncoder(backbone.prompt_encoder, vectors)
    prompts = [f"image of a {TOKEN} man", "a man", f"image of a {TOKEN} man"]
    embeds = encoder.encode(prompts)
    torch.testing.assert_close(embeds.prompt_embeds.detach(), encoder.frozen_embeds(prompts).prompt_embeds)
    torch.testing.assert_close(
        embeds.pooled_prompt_embeds.detach(), encoder.frozen_embeds(prompts).pooled_prompt_embeds
    )
    (embeds.prompt_embeds.square().sum() + embeds.pooled_prompt_embeds.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vectors.parameters())
    frozen = [p for e in encoder.text_encoders for n, p in e.named_parameters() if not n.endswith("learned")]
    assert frozen
    assert all(p.grad is None and not p.requires_grad for p in frozen)


def test_later_values_of_the_vectors_count(backbone: Backbone) -> None:
    vectors = vectors_of(backbone, "old")
    encoder = TokenPromptEncoder(backbone.prompt_encoder, vectors)
    encoder.frozen_embeds([TOKEN])
    with torch.no_grad():
        for mine, young in zip(vectors.pair(), vectors_of(backbone, "young").pair(), strict=True):
            mine.copy_(young)
    assert equal(encoder.frozen_embeds([TOKEN]), backbone.encode_prompts(["young"]))


def test_without_an_initializer_vectors_begin_as_the_mean(backbone: Backbone) -> None:
    encoders = backbone.prompt_encoder.text_encoders or ()
    for vector, text_encoder in zip(vectors_of(backbone, None).pair(), encoders, strict=True):
        torch.testing.assert_close(vector.detach()[0], text_encoder.get_input_embeddings().weight.mean(0))


@pytest.mark.parametrize("token", ["eyes", "<>", "<big eyes>", "<a><b>", ""])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InputError, match="angle brackets"):
        Placeholder(token)


def test_a_token_of_the_vocabulary_is_refused(backbone: Backbone) -> None:
    vectors = LearnedVectors(Placeholder("<|endoftext|>"), torch.zeros(1, 32), torch.zeros(1, 32))
    with pytest.raises(InputError, match="vocabulary already"):
        TokenPromptEncoder(backbone.prompt_encoder, vectors)


def test_bad_vectors_are_refused_in_one_sentence(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="'xyzzy' is cut into 5 tokens"):
        vectors_of(backbone, "xyzzy")
    with pytest.raises(InputError, match="num_vectors"):
        Placeholder(TOKEN, 0)
    narrow = LearnedVectors(Placeholder(TOKEN), torch.zeros(1, 32), torch.zeros(1, 8))
    with pytest.raises(InputError, match="model it was trained on"):
        TokenPromptEncoder(backbone.prompt_encoder, narrow)
    with pytest.raises(InputError, match="at most 77 tokens"):
        TokenPromptEncoder(backbone.prompt_encoder, vectors_of(backbone)).frozen_embeds([" ".join([TOKEN] * 80)])
    backbone.free_text_encoders()
    with pytest.raises(InputError, match="freed"):
        TokenPromptEncoder(backbone.prompt_encoder, narrow)

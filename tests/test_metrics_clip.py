"""CLIP score and its shift, against numpy and torchmetrics' own arithmetic, on the shipped CLIP and drawn faces."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.multimodal import clip_score as torchmetrics_clip_score

from evaluation.judges.clip import ClipJudge, load_clip
from evaluation.metrics.clip_score import CLIPScoreShift, clip_score, clip_score_shift
from experiments.tiny_faces.faces import sample_faces
from experiments.tiny_faces.render import render
from slider_lightning.config import ROOT
from slider_lightning.errors import InputError

PROMPT = "image of a person, very old"


@pytest.fixture(scope="module")
def judge() -> ClipJudge:
    return load_clip(ROOT / "assets/tiny_faces/clip", "tiny_faces CLIP")


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    return render(sample_faces(12, seed=4, held_out=True), 64).images


class TransformersFace(torch.nn.Module):
    """The shipped CLIP with the methods of a transformers CLIP and its processor, as torchmetrics calls them."""

    def __init__(self, judge: ClipJudge) -> None:
        super().__init__()
        self.judge = judge
        self.config = None

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.judge.model.encode_image(pixel_values)

    def get_text_features(self, input_ids: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return self.judge.model.encode_text(input_ids)

    def process(self, text: list[str] | None = None, images: list[torch.Tensor] | None = None, **_: object) -> dict:
        if images is not None:
            return {"pixel_values": 2 * torch.stack(images) - 1}
        ids = self.judge.tokenizer(text)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_score_of_the_shipped_clip_is_100_times_the_cosine(judge: ClipJudge, faces: torch.Tensor) -> None:
    with torch.no_grad():
        image_embeds = judge.model.encode_image(2 * faces - 1).double().numpy()
        text_embeds = judge.model.encode_text(judge.tokenizer([PROMPT])).double().numpy()[0]
    norms = np.linalg.norm(image_embeds, axis=1) * np.linalg.norm(text_embeds)
    expected = 100 * (image_embeds @ text_embeds) / norms
    assert np.abs(judge.score(faces, [PROMPT]).numpy() - expected).max() <= 1e-4
    direct = clip_score(torch.from_numpy(image_embeds), torch.from_numpy(text_embeds))
    assert np.abs(direct.numpy() - expected).max() <= 1e-10


def test_score_is_torchmetrics_score_but_for_its_clamp(judge: ClipJudge, faces: torch.Tensor) -> None:
    face = TransformersFace(judge)
    texts = [PROMPT, "image of a woman, with glasses", "red background"]
    for text in texts:
        scores = judge.score(faces, [text])
        with torch.no_grad():
            theirs = [torchmetrics_clip_score(i, text, lambda: (face, face.process)) for i in faces]
        assert torch.allclose(scores.clamp_min(0), torch.stack(theirs), atol=1e-4)
    assert float(clip_score(torch.tensor([1.0, 0.0]), torch.tensor([-2.0, 0.0]))) == -100


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_score_in_other_precisions(dtype: torch.dtype) -> None:
    embeds = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(1))
    exact = clip_score(*embeds)
    assert torch.allclose(clip_score(*embeds.to(dtype)).float(), exact, atol=0.5 if dtype != torch.float64 else 1e-4)


def test_shift_is_the_difference_of_means_and_gathers_over_batches(judge: ClipJudge, faces: torch.Tensor) -> None:
    edited, original = faces[:6], faces[6:]
    scores = judge.score(edited, [PROMPT]), judge.score(original, [PROMPT])
    metric = CLIPScoreShift(judge)
    metric.update(edited[:2], original[:2], [PROMPT])
    metric.update(edited[2:], original[2:], [PROMPT] * 4)
    result = metric.compute()
    assert float(result["clip_score_shift"]) == pytest.approx(float(scores[0].mean() - scores[1].mean()), abs=1e-4)
    assert int(result["n"]) == 6
    assert torch.allclose(metric.per_image(), clip_score_shift(*scores), atol=1e-4)
    metric.reset()
    with pytest.raises(InputError, match="got none"):
        metric.per_image()


def test_pairs_that_do_not_fit_are_refused(judge: ClipJudge, faces: torch.Tensor) -> None:
    metric = CLIPScoreShift(judge)
    with pytest.raises(ValueError, match="one edited score per original"):
        metric.update(faces[:2], faces[:3], [PROMPT])
    with pytest.raises(ValueError, match="2 texts"):
        metric.update(faces[:2], faces[:2], [PROMPT] * 3)
    with pytest.raises(ValueError, match=r"\[0, 1\] leave the range or hold NaN"):
        metric.update(faces[:2] * torch.nan, faces[:2], [PROMPT])

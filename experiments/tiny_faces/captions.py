"""Captions of drawn faces: tags in random order, dropped at random, so that guidance and preservation work."""

import random

from experiments.tiny_faces.faces import BACKGROUNDS, GENDERS, HAIR_COLORS, SKIN_TONES, Faces

EMPTY_SHARE = 0.10
TAG_SHARE = 0.55
AGE_SHARE = 0.75
PERSON_SHARE = 0.5
TEMPLATES = ("{}", "image of {}", "photo of {}", "picture of {}", "portrait of {}")
AGE_WORDS = ("very young", "young", "middle-aged", "old", "very old")
SMILE_WORDS = ("frowning", "neutral expression", "smiling")

PHRASES = (
    *(*TEMPLATES, *AGE_WORDS, *SMILE_WORDS, *GENDERS, *SKIN_TONES, *HAIR_COLORS, *BACKGROUNDS),
    *("a person", "male", "female", "with glasses", "without glasses", "curly hair", "straight hair"),
    *("well drawn", "poorly drawn", "skin", "background", "doctor", "barista", "wearing"),
)
VOCABULARY: tuple[str, ...] = tuple(sorted(set(" ".join(PHRASES).replace("{}", " ").replace("-", " - ").split())))
"""Every word that captions use; the tokenizer has one token for each."""


def age_word(age: float) -> str:
    """The word for an age in [0, 1]; five equal bands."""
    return AGE_WORDS[min(int(age * len(AGE_WORDS)), len(AGE_WORDS) - 1)]


def tags(values: dict[str, float | int]) -> dict[str, str]:
    """Attribute -> its phrase in a caption, for the attributes of one face that captions can name."""
    phrases = {
        "age": age_word(float(values["age"])),
        "skin_tone": f"{SKIN_TONES[int(values['skin_tone'])]} skin",
        "hair_color": f"{HAIR_COLORS[int(values['hair_color'])]} hair",
        "curl": "curly hair" if values["curl"] else "straight hair",
        "glasses": "with glasses" if values["glasses"] else "without glasses",
        "background": f"{BACKGROUNDS[int(values['background'])]} background",
        "quality": "poorly drawn" if values["quality"] else "well drawn",
    }
    smile = float(values["smile"])
    if not 0.3 <= smile <= 0.36 and not 0.6 <= smile <= 0.66:
        phrases["smile"] = SMILE_WORDS[0 if smile < 0.3 else 1 if smile < 0.6 else 2]
    return phrases


def caption(values: dict[str, float | int], rng: random.Random) -> str:
    """One caption of one face: a subject and some of its tags in random order, or nothing at all.

    "a person" stands for either gender; then the gender may follow as a tag ("male", "female").
    """
    if rng.random() < EMPTY_SHARE:
        return ""
    gender = GENDERS[int(values["gender"])]
    shares = {"age": AGE_SHARE, "quality": 0.6 if values["quality"] else 0.3}
    chosen = [phrase for name, phrase in tags(values).items() if rng.random() < shares.get(name, TAG_SHARE)]
    subject = f"a {gender}"
    if rng.random() < PERSON_SHARE:
        subject = "a person"
        if rng.random() < 0.5:
            chosen.append("male" if gender == "man" else "female")
    rng.shuffle(chosen)
    return ", ".join([rng.choice(TEMPLATES).format(subject), *chosen])


def captions(faces: Faces, seed: int) -> list[str]:
    """One caption per face, each a function of (seed, its place)."""
    columns = {name: column.tolist() for name, column in faces.values.items()}
    return [
        caption({name: column[i] for name, column in columns.items()}, random.Random(f"{seed}-{i}"))
        for i in range(len(faces))
    ]

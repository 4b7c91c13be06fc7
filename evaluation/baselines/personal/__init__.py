"""Personalisation as a baseline of table 2: Textual Inversion and Custom Diffusion, trained on a folder of images."""

from evaluation.baselines.personal.concept import LearnedConcept
from evaluation.baselines.personal.data import PersonalDataModule, PersonalImages
from evaluation.baselines.personal.files import CONCEPT_FILE, ConceptMetadata, load_concept, save_concept
from evaluation.baselines.personal.images import PriorConfig, folder_digest, prior_images, read_training_images
from evaluation.baselines.personal.methods import CustomDiffusion, TextualInversion
from evaluation.baselines.personal.settings import PersonalConfig
from evaluation.baselines.personal.training import ConceptFile, PersonalModule

__all__ = [
    "CONCEPT_FILE",
    "ConceptFile",
    "ConceptMetadata",
    "CustomDiffusion",
    "LearnedConcept",
    "PersonalConfig",
    "PersonalDataModule",
    "PersonalImages",
    "PersonalModule",
    "PriorConfig",
    "TextualInversion",
    "folder_digest",
    "load_concept",
    "prior_images",
    "read_training_images",
    "save_concept",
]

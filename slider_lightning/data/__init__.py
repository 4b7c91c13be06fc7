"""What a loss is fed: states of the diffusion with the frozen model's scores."""

from slider_lightning.data.batches import (
    CachedStates,
    RolloutDataModule,
    StateDataModule,
    StateLoader,
    TeacherBatch,
    TeacherDataModule,
)
from slider_lightning.data.cost import Cost, measured_cost
from slider_lightning.data.draws import ScaleRange
from slider_lightning.data.pairs import PairBatch, PairDataModule, PairsConfig, PairSource
from slider_lightning.data.rollout import OnPolicyConfig
from slider_lightning.data.states import ConceptEmbeds, RolloutConfig, TeacherStates
from slider_lightning.data.steps import JointDataModule, Share, StepDataModule, StepLoader
from slider_lightning.data.teacher import MappedStates, TeacherCache, TeacherConfig

__all__ = [
    "CachedStates",
    "ConceptEmbeds",
    "Cost",
    "JointDataModule",
    "MappedStates",
    "OnPolicyConfig",
    "PairBatch",
    "PairDataModule",
    "PairSource",
    "PairsConfig",
    "RolloutConfig",
    "RolloutDataModule",
    "ScaleRange",
    "Share",
    "StateDataModule",
    "StateLoader",
    "StepDataModule",
    "StepLoader",
    "TeacherBatch",
    "TeacherCache",
    "TeacherConfig",
    "TeacherDataModule",
    "TeacherStates",
    "measured_cost",
]

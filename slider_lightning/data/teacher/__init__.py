"""The teacher cache: the frozen model's scores as files, computed once for every sweep that trains on them."""

from slider_lightning.data.teacher.cache import Progress, TeacherCache
from slider_lightning.data.teacher.config import TeacherConfig
from slider_lightning.data.teacher.mapped import MappedStates
from slider_lightning.data.teacher.shards import INDEX_FILE, LAST_USE_FILE, SHARD_SUFFIX

__all__ = [
    "INDEX_FILE",
    "LAST_USE_FILE",
    "SHARD_SUFFIX",
    "MappedStates",
    "Progress",
    "TeacherCache",
    "TeacherConfig",
]

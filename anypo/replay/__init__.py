"""Replay: what is kept and used again."""

from anypo.parts import load
from anypo.replay.base import OnPolicy, Replay
from anypo.replay.buffer import Buffer
from anypo.replay.dataset import Dataset
from anypo.replay.delayed import Delayed
from anypo.replay.last_response import LastResponse
from anypo.replay.previous_batch import PreviousBatch
from anypo.replay.reflection import Reflect

load(__name__)

__all__ = ["Buffer", "Dataset", "Delayed", "LastResponse", "OnPolicy", "PreviousBatch", "Reflect", "Replay"]

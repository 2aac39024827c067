"""What was trained, in use: opened, written for others, spoken with."""

from anypo.trained.export import Exported, export
from anypo.trained.opening import Trained, open_trained
from anypo.trained.speech import Conversation, Speech

__all__ = ["Conversation", "Exported", "Speech", "Trained", "export", "open_trained"]

"""Folders on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anypo.errors import UserError, brief


def check(repository: str) -> None:
    """`UserError` where the hub cannot be reached or does not know who asks."""
    if repository.count("/") > 1 or not repository.strip("/"):
        raise UserError(f"--push takes a repository of the hub, NAME or OWNER/NAME, not '{repository}'")
    try:
        _hub().whoami()
    except Exception as error:  # of the network, of the hub, of the login: each library has its own
        raise UserError(
            f"nothing was exported: the hub cannot be reached, or does not know you ({brief(error)}); "
            "log in with 'hf auth login', or leave out --push"
        ) from None


def upload(folder: Path, repository: str) -> str:
    """Upload `folder` to `repository`, which is made (private) where it is not there; its address."""
    try:
        made = _hub().create_repo(repository, private=True, exist_ok=True)
        _hub().upload_folder(folder_path=str(folder), repo_id=made.repo_id, commit_message="Exported by anypo")
    except Exception as error:
        raise UserError(f"{folder} was written, but the hub refuses it ({brief(error)})") from None
    return str(made)


def _hub() -> Any:
    from huggingface_hub import HfApi

    return HfApi()

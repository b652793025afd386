"""Models, rewards, exports, named configurations and the machine, over REST."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from bp_ui.service import rewards, secrets
from bp_ui.service.evaluations import start_evaluation
from bp_ui.service.exports import start_export, start_push
from bp_ui.service.services import services

router = APIRouter(prefix="/api/v1")
Name = Annotated[str, Field(min_length=1, max_length=128)]
Values = dict[str, str | int | float | bool | list[str] | None]


class Export(BaseModel):
    """What is exported: the adapter of a run, or a folder; flags of `backprop export` by name."""

    adapter: Annotated[str, Field(min_length=1, max_length=1000)]
    settings: Values = {}
    run_id: Name | None = None


class Scoring(BaseModel):
    """Completions to score."""

    rows: list[dict[str, Any]] = Field(min_length=1, max_length=rewards.MOST)


class Part(BaseModel):
    """One reward of a set."""

    use: Name
    weight: Annotated[float, Field(ge=-1e6, le=1e6)] = 1.0
    reference: Name | None = None
    parameters: dict[str, str | int | float | bool] | None = None


@router.get("/system", tags=["system"])
def system() -> dict[str, Any]:
    """Processor, memory, disk and card; bytes, percent, °C, watts."""
    return services().system.read()


@router.get("/models", tags=["models"])
def models() -> dict[str, Any]:
    """Adapters of runs, base models in the cache, well-known ones."""
    told = services().system.read()
    found = services().models
    return {
        "adapters": found.adapters(),
        "cached": found.cached(),
        "known": found.families(told["gpu_memory_total"]),
    }


@router.get("/models/ollama", tags=["models"])
def ollama_models() -> dict[str, Any]:
    """The models that Ollama has; its server is asked."""
    return {"models": services().models.ollama()}


@router.post("/exports", tags=["exports"], status_code=201)
def export(asked: Export) -> dict[str, Any]:
    """Start an export."""
    return {"run_id": start_export(services(), asked.adapter, asked.settings, run_id=asked.run_id)}


class Push(BaseModel):
    """What goes to the Hub, and where."""

    adapter: Annotated[str, Field(min_length=1, max_length=1000)]
    repo: Name
    private: bool = True
    dry_run: bool = False


@router.post("/pushes", tags=["exports"], status_code=201)
def push(asked: Push) -> dict[str, Any]:
    """Start a push to the Hub; `dry_run` only lists what would be sent."""
    own = {"private": asked.private, "dry_run": asked.dry_run}
    return {"run_id": start_push(services(), asked.adapter, asked.repo, **own)}


class Evaluation(BaseModel):
    """What is evaluated, and with what it is compared."""

    run_id: Name
    vs: Annotated[str, Field(max_length=128)] = ""
    gate_against: Annotated[str, Field(max_length=128)] = ""
    eval_set: Annotated[str, Field(max_length=1000)] = ""
    num_samples: Annotated[int, Field(ge=0, le=1_000_000)] = 64
    job_id: Name | None = None


@router.post("/evaluations", tags=["evaluations"], status_code=201)
def evaluate(asked: Evaluation) -> dict[str, Any]:
    """Start an evaluation of a run's adapter; the job's result holds the figures."""
    return {"run_id": start_evaluation(services(), **asked.model_dump())}


@router.get("/rewards", tags=["rewards"])
def list_rewards() -> dict[str, Any]:
    """Rewards, presets, and sets that were saved."""
    return {**rewards.catalogue(), "sets": services().rewards.list()}


@router.get("/rewards/{name}", tags=["rewards"])
def get_reward(name: Name) -> dict[str, Any]:
    """One reward or preset."""
    return rewards.describe(name)


@router.post("/rewards/{name}/test", tags=["rewards"])
def test_reward(name: Name, asked: Scoring) -> dict[str, Any]:
    """Score completions with a reward, a preset or a saved set."""
    return rewards.score(services().rewards.made(name), asked.rows)


@router.post("/rewards/{name}/coverage", tags=["rewards"])
def cover_reward(name: Name, asked: Scoring) -> dict[str, Any]:
    """Whether it tells completions of one prompt apart: nothing else teaches."""
    return rewards.coverage(services().rewards.made(name), asked.rows)


@router.put("/rewards/sets/{name}", tags=["rewards"])
def save_set(name: Name, parts: list[Part]) -> dict[str, Any]:
    """Save a set of rewards; its file is what `backprop reward` and a training take."""
    told = [p.model_dump(exclude_none=True) for p in parts]
    return {"name": name, "path": str(services().rewards.save(name, told))}


@router.delete("/rewards/sets/{name}", tags=["rewards"])
def delete_set(name: Name) -> dict[str, Any]:
    """Delete a set."""
    services().rewards.delete(name)
    return {"deleted": name}


class Secret(BaseModel):
    """The value of a secret; no answer holds it."""

    value: Annotated[str, Field(min_length=1, max_length=secrets.LONGEST)]


@router.get("/secrets", tags=["secrets"])
def list_secrets() -> dict[str, Any]:
    """Which secrets jobs read, and where each is: environment, keyring, or not set."""
    return {"secrets": secrets.status()}


@router.put("/secrets/{name}", tags=["secrets"])
def put_secret(name: Name, asked: Secret) -> dict[str, Any]:
    """Keep a secret in the system's keyring."""
    secrets.put(name, asked.value)
    return {"name": name}


@router.delete("/secrets/{name}", tags=["secrets"])
def delete_secret(name: Name) -> dict[str, Any]:
    """Take a secret out of the keyring."""
    secrets.delete(name)
    return {"deleted": name}


@router.get("/configs", tags=["configs"])
def list_configs() -> dict[str, Any]:
    """Names of saved configurations."""
    return {"configs": services().configs.list()}


@router.get("/configs/{name}", tags=["configs"])
def load_config(name: Name) -> dict[str, Any]:
    """The values of one."""
    return {"name": name, "config": services().configs.load(name)}


@router.put("/configs/{name}", tags=["configs"])
def save_config(name: Name, config: dict[str, Any]) -> dict[str, Any]:
    """Save values under a name."""
    return {"name": services().configs.save(name, config)}


@router.delete("/configs/{name}", tags=["configs"])
def delete_config(name: Name) -> dict[str, Any]:
    """Delete one."""
    services().configs.delete(name)
    return {"deleted": name}

from __future__ import annotations

import asyncio
import copy
import inspect
import itertools
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, SerializeAsAny

from verifiers.v1.state import State as State

# ── Messages and traces ──────────────────────────────────────────────────────────────────────────


class TextContentPart(BaseModel):
    type: Literal["text"] = "text"
    text: str


class ImageUrlSource(BaseModel):
    url: str


class ImageUrlContentPart(BaseModel):
    type: Literal["image_url"] = "image_url"
    image_url: ImageUrlSource


Content = str | list[TextContentPart | ImageUrlContentPart]


class SystemMessage(BaseModel):
    role: Literal["system"] = "system"
    content: Content


class UserMessage(BaseModel):
    role: Literal["user"] = "user"
    content: Content


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None = None


class MessageNode(BaseModel):
    parent: int | None = None
    message: SystemMessage | UserMessage | AssistantMessage
    sampled: bool = False


class VersionInfo(BaseModel):
    version: str


class AgentConfig(BaseModel):
    pass


class AgentInfo(BaseModel):
    config: AgentConfig


class TraceTask(BaseModel):
    type: str
    data: SerializeAsAny[TaskData]
    key: str | None = None
    hash: str | None = None


class Reward(BaseModel):
    score: float
    weight: float = 1.0


class Trace(BaseModel):
    task: TraceTask
    agent: AgentInfo
    nodes: list[MessageNode] = []
    state: State
    verifiers: VersionInfo
    rewards: dict[str, Reward | None] = {}
    is_completed: bool = False
    ok: bool = False

    @property
    def assistant_messages(self) -> list[Any]:
        return [n.message for n in self.nodes if n.sampled and n.message.role == "assistant"]

    @property
    def last_reply(self) -> str:
        return (self.assistant_messages[-1].content or "").strip() if self.assistant_messages else ""


# ── Tasks and tasksets ───────────────────────────────────────────────────────────────────────────


class BaseClientConfig(BaseModel):
    base_url: str = "https://example.invalid"


class JudgeConfig(BaseClientConfig):
    id: str = ""


class TaskConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    judges: list[SerializeAsAny[JudgeConfig]] = []


class TasksetConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str = ""
    task: SerializeAsAny[TaskConfig] = TaskConfig()


class TaskData(BaseModel):
    model_config = ConfigDict(frozen=True)
    idx: int | None = None
    prompt: str | list[SystemMessage | UserMessage | AssistantMessage] | None = None
    system_prompt: str | None = None
    image: str | None = None
    workdir: str | None = None
    skills: list[str] = []
    artifacts: list[str] = []


TraceTask.model_rebuild()


def reward(function: Any = None, weight: float = 1.0) -> Any:
    def mark(found: Any) -> Any:
        found.reward, found._vf_weight = True, weight
        return found

    return mark if function is None else mark(function)


def metric(function: Any) -> Any:
    function.metric = True
    return function


class _Generic:
    def __class_getitem__(cls, parameters: Any) -> Any:
        """Takes one to three parameters, as the package's defaults of type variables allow."""
        given = parameters if isinstance(parameters, tuple) else (parameters,)
        return type(cls.__name__, (cls,), {"_parameters": given})


class Task(_Generic):
    NEEDS_CONTAINER: ClassVar[bool] = False
    _parameters: tuple[Any, ...] = ()

    def __init__(self, data: Any, config: Any = None) -> None:
        self.data, self.config = data, config or self.config_type()()
        self.key = self.hash = "0" * 64

    async def setup(self, trace: Any, runtime: Any) -> None: ...
    async def finalize(self, trace: Any, runtime: Any) -> None: ...
    async def stage_verifier(self, trace: Any, runtime: Any) -> None: ...

    @classmethod
    def data_type(cls) -> type[TaskData]:
        return next((p for p in cls._parameters if issubclass(p, TaskData)), TaskData)

    @classmethod
    def config_type(cls) -> type[TaskConfig]:
        return next((p for p in cls._parameters if issubclass(p, TaskConfig)), TaskConfig)

    @classmethod
    def toolsets(cls, _config: Any) -> list[Any]:
        return []

    def hooks(self, attribute: str) -> list[Callable[..., Any]]:
        names = {name for klass in type(self).__mro__ for name, fn in vars(klass).items() if hasattr(fn, attribute)}
        return [getattr(self, name) for name in sorted(names)]

    async def score(self, trace: Trace, runtime: Any = None) -> None:
        available = {"task": self.data, "trace": trace}

        async def ask(function: Callable[..., Any]) -> Any:
            wanted = inspect.signature(function).parameters
            return await function(**{name: available[name] for name in wanted if name in available})

        rewards = self.hooks("reward")
        for function, found in zip(rewards, await asyncio.gather(*map(ask, rewards)), strict=True):
            for name, score in found.items() if isinstance(found, dict) else [(function.__name__, found)]:
                trace.rewards[name] = Reward(score=score, weight=function._vf_weight)


class Taskset(_Generic):
    INFINITE = False
    _parameters: tuple[Any, ...] = ()

    def __init__(self, config: Any) -> None:
        self.config, self._most = config, None

    @classmethod
    def task_type(cls) -> type[Task]:
        return next((p for p in cls._parameters if issubclass(p, Task)), Task)

    @classmethod
    def toolsets(cls, _config: Any) -> list[Any]:
        return []

    @property
    def bounded(self) -> bool:
        return not self.INFINITE or self._most is not None

    def take(self, most: int) -> Taskset:
        view = copy.copy(self)
        view._most = most
        return view

    def load(self) -> Iterator[Task]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Task]:
        for index, task in enumerate(itertools.islice(self.load(), self._most)):
            clone = copy.copy(task)
            clone.data = task.data.model_copy(update={"idx": index})
            yield clone


# ── Environments ─────────────────────────────────────────────────────────────────────────────────


class Env(_Generic): ...


class SingleAgentEnv(Env): ...


class Harness(_Generic): ...


def _exported(identifier: str, base: type) -> Any:
    module = import_module(identifier.rsplit("/", 1)[-1].replace("-", "_").lower())
    if getattr(module, "__all__", None) is None:
        raise AttributeError(f"{base.__name__} module {module.__name__!r} defines no `__all__`")
    found = [o for n in module.__all__ if isinstance(o := getattr(module, n), type) and issubclass(o, base)]
    if not found:
        raise TypeError(f"module {module.__name__!r} exports no {base.__name__} subclass via `__all__`")
    return found[0]


def taskset_config_type(identifier: str) -> type[TasksetConfig]:
    parameters = _exported(identifier, Taskset)._parameters
    return next((p for p in parameters if issubclass(p, TasksetConfig)), TasksetConfig)


def load_taskset(config: TasksetConfig) -> Taskset:
    return _exported(config.id, Taskset)(config)


def environment_class(identifier: str) -> type[Env]:
    try:
        return _exported(identifier, Env)
    except TypeError:
        return SingleAgentEnv


def default_harness_id(identifier: str) -> str:
    try:
        _exported(identifier, Harness)
    except TypeError:
        return "bash"
    return identifier

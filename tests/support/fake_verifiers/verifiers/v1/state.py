from pydantic import BaseModel


class State(BaseModel):
    artifacts: dict[str, bytes | None] = {}


def state_cls(_task: type) -> type[State]:
    return State
